//! The tries of a plan that others keep overtaking: how they are paced, and when one goes alone.
//!
//! A plan is made outside the writer and refused when what it rests on has changed meanwhile. One that many shared resources go into, and
//! takes long to make, loses against quick small ones for ever. So after a few tries it is made while no other of this process is.

use super::refusal::Refusal;
use crate::store::WriteError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Paces the tries of a plan that keeps being out of date.
#[derive(Debug, Default)]
pub struct Tries(u32);

impl Tries {
    const MOST: u32 = 16;
    /// From then on it goes alone.
    const PATIENT: u32 = 5;

    /// Waits a little, longer and at random each time; after sixteen tries it gives up.
    pub async fn pause(&mut self) -> Result<(), Refusal> {
        self.0 += 1;
        if self.0 >= Tries::MOST {
            return Err(WriteError::Stale.into());
        }
        let most = 1u64 << self.0.min(7);
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..=most * 1000))).await;
        Ok(())
    }
}

/// Where tries wait for their turn, in the order in which they came. Who tries together with others reads; who goes alone writes.
#[derive(Clone, Debug, Default)]
pub struct Lane(Arc<RwLock<()>>);

/// The right to make one try; held, not read.
#[derive(Debug)]
pub enum Turn<'a> {
    Together(RwLockReadGuard<'a, ()>),
    Alone(RwLockWriteGuard<'a, ()>),
}

impl Lane {
    /// Waits until one more try may be made. Nobody who holds a turn may ask for another.
    pub async fn turn(&self, tries: &Tries) -> Turn<'_> {
        if tries.0 < Tries::PATIENT { Turn::Together(self.0.read().await) } else { Turn::Alone(self.0.write().await) }
    }
}
