//! Registering a client: the rules that hold for whoever does it, the command and the console alike.

use super::clients::{self, Client, ClientError};
use super::key_sets::check_address;
use super::{Role, generate_secret, hash_secret};
use crate::config::Secret;
use crate::store::Store;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

/// Shorter secrets can be guessed.
pub const SHORTEST_SECRET: usize = 12;
/// Longer ones only cost time.
pub const LONGEST_SECRET: usize = 1024;

/// How a new client will prove itself.
#[derive(Clone, Debug)]
pub enum Proof {
    /// By a secret that is made now.
    NewSecret,
    Secret(Secret),
    /// By assertions signed with one of these public keys (a JSON Web Key Set).
    Keys(String),
    /// The same, with the set fetched from there.
    KeysAt(String),
    /// By tokens of this outside issuer.
    Issuer(String),
    /// An app that cannot keep a secret: by PKCE alone.
    Public,
}

/// A client to be added.
#[derive(Clone, Debug)]
pub struct Registration {
    pub id: String,
    /// Code of the facility that owns what the client sends.
    pub facility: String,
    /// Scopes, separated by one space.
    pub scopes: String,
    pub roles: Vec<Role>,
    pub proof: Proof,
    /// Where an app for people may be sent back to.
    pub redirect_uris: Vec<String>,
    /// The TLS certificate that it must connect with, in PEM.
    pub certificate: Option<String>,
}

/// Adds the client; it may call from now on. Gives the secret that was made, which nobody can see again. `public_url`: where lango itself
/// is reached; when that is this machine alone, a key set may be on it too.
pub async fn register(store: &Store, asked: Registration, public_url: &str) -> Result<Option<Secret>, ClientError> {
    let mut client = Client::new(&asked.id, &asked.facility, &asked.scopes);
    client.roles = asked.roles.iter().map(Role::to_string).collect();
    client.redirect_uris = asked.redirect_uris;
    client.certificate = asked.certificate.as_deref().map(certificate_digest).transpose()?;
    let made = prove(&mut client, asked.proof, public_url)?;
    clients::add(store, &client).await?;
    Ok(made)
}

/// What of a client is to be otherwise; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub scopes: Option<String>,
    pub roles: Option<Vec<Role>>,
    pub proof: Option<Proof>,
    pub redirect_uris: Option<Vec<String>>,
    /// In PEM; `Some(None)`: it need not connect with one any more.
    pub certificate: Option<Option<String>>,
}

/// Changes what a client may do or how it proves itself, from the next request on; what it proved itself by before is worthless then. Its
/// facility stays: what it sent belongs to that one. Gives the secret that was made. `public_url` as in [`register`].
pub async fn change(store: &Store, id: &str, asked: Change, public_url: &str) -> Result<Option<Secret>, ClientError> {
    let before = clients::find(store, id).await?.ok_or(ClientError::Unknown)?;
    let mut client = before.clone();
    if let Some(scopes) = asked.scopes {
        client.scopes = scopes;
    }
    if let Some(roles) = asked.roles {
        client.roles = roles.iter().map(Role::to_string).collect();
    }
    if let Some(uris) = asked.redirect_uris {
        client.redirect_uris = uris;
    }
    if let Some(pem) = asked.certificate {
        client.certificate = pem.as_deref().map(certificate_digest).transpose()?;
    }
    let made = match asked.proof {
        Some(proof) => prove(&mut client, proof, public_url)?,
        None => None,
    };
    clients::replace(store, &before, &client).await?;
    Ok(made)
}

/// Has the client prove itself by this and by nothing else. Gives the secret that was made.
fn prove(client: &mut Client, proof: Proof, public_url: &str) -> Result<Option<Secret>, ClientError> {
    (client.secret_hash, client.jwks, client.jwks_url, client.issuer) = (None, None, None, None);
    match proof {
        Proof::NewSecret => {
            let secret = generate_secret()?;
            client.secret_hash = Some(hash_secret(&secret)?);
            return Ok(Some(secret));
        }
        Proof::Secret(secret) => client.secret_hash = Some(hash_secret(checked(&secret)?)?),
        Proof::Keys(set) => client.jwks = Some(set),
        Proof::KeysAt(url) => {
            check_address(&url, public_url).map_err(ClientError::JwksUrl)?;
            client.jwks_url = Some(url);
        }
        Proof::Issuer(issuer) => client.issuer = Some(issuer),
        Proof::Public => {}
    }
    Ok(None)
}

/// Replaces a client's secret, by `secret` or a new one; the old one is worthless at once. Gives the one that was made.
pub async fn renew_secret(store: &Store, id: &str, secret: Option<&Secret>) -> Result<Option<Secret>, ClientError> {
    match secret {
        Some(secret) => clients::set_secret(store, id, &hash_secret(checked(secret)?)?).await.map(|()| None),
        None => {
            let secret = generate_secret()?;
            clients::set_secret(store, id, &hash_secret(&secret)?).await?;
            Ok(Some(secret))
        }
    }
}

fn checked(secret: &Secret) -> Result<&Secret, ClientError> {
    let text = secret.expose();
    let fits = text.len() <= LONGEST_SECRET && text.chars().count() >= SHORTEST_SECRET && !text.chars().any(char::is_control);
    if fits { Ok(secret) } else { Err(ClientError::Secret) }
}

fn certificate_digest(pem: &str) -> Result<String, ClientError> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| ClientError::Pem)?;
    Ok(thumbprint(&certificate))
}

/// SHA-256 of a certificate in hex: the name by which clients are bound to theirs.
pub fn thumbprint(certificate: &[u8]) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}
