//! Nothing that a caller may not see changes anything that it is told.
//!
//! Random worlds are asked about by every route, three ways. What is read must be what a slow reading of the Consents allows. What is
//! searched must be what a server answers that holds nothing but what the caller may see, total and pages included. And all answers
//! must be the same, byte for byte, after data changed that the caller may not see; [`settled`] lists what is allowed to differ.
//!
//! Worlds live on one server one after another. What others keep of the last few stays there, so each world's answers must also be free
//! of its forerunners'. Most questions are entries of one batch, a sample are requests of their own. Recording is off but in a few worlds,
//! which also ask for what is recorded of the caller.
//!
//! `LANGO_WORLDS` worlds are made (some when it is not set), from the seed `LANGO_SEED` on.

mod searches;
mod setting;
mod tour;
mod world;

pub use world::settled;

use crate::support::worlds::Choices;
use crate::support::{TestDb, both_databases};
use setting::Setting;
use std::collections::VecDeque;
use world::World;

/// Worlds of one test.
const WORLDS: u64 = 60;
/// Worlds on one server: what was, makes the next a little slower.
const TOGETHER: u64 = 100;
/// Worlds of which the hidden part stays for those that follow.
const REMAIN: usize = 3;
/// Of so many worlds one is recorded.
const RECORDED: u64 = 30;
/// Purposes that the asker signs, one of these in each world.
const PURPOSES: [&[&str]; 6] = [&["TREAT"], &["TREAT"], &["TREAT"], &["ETREAT"], &["TREAT", "HPAYMT"], &[]];

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn one_world<'a>(setting: &'a Setting, number: u64) -> World<'a> {
    let mut choices = Choices::new(number);
    let mut world = World::new(setting, number, &mut choices).await;
    let way = world.itinerary();
    let before = world.tour(&way).await;
    world.check_reads(&before);
    world.check_searches(&before).await;
    world.disturb(&mut choices).await;
    let after = world.tour(&way).await;
    assert_eq!(before.len(), after.len(), "{}", world.name);
    for (question, answered) in &before {
        assert_eq!(&after[question], answered, "{}: {question} tells of hidden data", world.name);
    }
    world.check_reads(&after);
    world
}

/// Worlds `numbers` on fresh servers.
async fn worlds(db: &TestDb, numbers: impl Iterator<Item = u64>, records: bool) {
    let plain = TestDb::sqlite();
    Setting::prepare(db).await;
    let mut setting = Setting::new(db, &plain, records).await;
    let mut remains = VecDeque::new();
    for number in numbers {
        setting.refresh().await;
        let left = one_world(&setting, number).await.end().await;
        remains.push_back(left);
        if remains.len() > REMAIN
            && let Some(left) = remains.pop_front()
        {
            world::clear(&setting, left).await;
        }
    }
}

both_databases!(
    async fn nothing_hidden_changes_an_answer(db: &TestDb) {
        let first = variable("LANGO_SEED", 1);
        let last = first + variable("LANGO_WORLDS", WORLDS);
        for from in (first..last).step_by(TOGETHER as usize) {
            let fresh = if db.is_sqlite() { TestDb::sqlite() } else { TestDb::postgres().await };
            worlds(&fresh, (from..last.min(from + TOGETHER)).filter(|number| number % RECORDED != 0), false).await;
            fresh.discard().await;
        }
        worlds(db, (first..last).filter(|number| number % RECORDED == 0), true).await;
    }
);
