//! Versions as HTTP names them (<https://hl7.org/fhir/R4/http.html#concurrency>).

/// The version in `W/"3"`, also without the weakness mark or the quotes.
pub fn parse_etag(text: &str) -> Option<i64> {
    let text = text.trim();
    let text = text.strip_prefix("W/").unwrap_or(text);
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    text.parse().ok().filter(|version| *version > 0)
}

/// Versions that one `If-Match` may name.
const MOST: usize = 8;

/// What `If-Match` admits: `*` any version that is there, or those that it lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// As many as are not 0, which is no version; none: any.
    listed: [i64; MOST],
}

impl Versions {
    /// Reads `*`, `W/"3"` or `W/"3", W/"4"`; eight at most.
    pub fn parse(text: &str) -> Option<Versions> {
        let mut listed = [0; MOST];
        if text.trim() != "*" {
            let tags: Vec<&str> = text.split(',').collect();
            if tags.len() > MOST {
                return None;
            }
            for (place, tag) in listed.iter_mut().zip(tags) {
                *place = parse_etag(tag)?;
            }
        }
        Some(Versions { listed })
    }

    pub fn one(version: i64) -> Versions {
        let mut listed = [0; MOST];
        if let Some(first) = listed.first_mut() {
            *first = version;
        }
        Versions { listed }
    }

    pub fn admit(&self, version: i64) -> bool {
        self.listed == [0; MOST] || self.listed.contains(&version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_are_versions() {
        assert_eq!(parse_etag("W/\"3\""), Some(3));
        assert_eq!(parse_etag("\"3\""), Some(3));
        assert_eq!(parse_etag("3"), Some(3));
        for bad in ["", "W/\"\"", "W/\"-1\"", "*", "\"", "99999999999999999999"] {
            assert_eq!(parse_etag(bad), None, "{bad}");
        }
    }

    #[test]
    fn if_match_admits_what_it_names() {
        let admits = |text: &str| -> Option<Vec<i64>> {
            let versions = Versions::parse(text)?;
            Some((1..=9).filter(|version| versions.admit(*version)).collect())
        };
        assert_eq!(admits("*"), Some((1..=9).collect()));
        assert_eq!(admits("W/\"3\""), Some(vec![3]));
        assert_eq!(admits("W/\"3\", \"5\""), Some(vec![3, 5]));
        for bad in ["", "*, W/\"3\"", "W/\"3\",", "x", "1,2,3,4,5,6,7,8,9"] {
            assert_eq!(admits(bad), None, "{bad}");
        }
        assert!(!Versions::one(2).admit(1));
    }
}
