//! What the calls take.

use std::time::{Duration, Instant};

use crate::{OUTSIDE, POD, at, world::World};

/// Prints what the calls take:
/// `cargo test -p mesh-node [--release] --test kernel -- --ignored --nocapture costs`
#[test]
#[ignore = "a measurement"]
fn costs() {
    let Some(mut world) = World::new() else { return };
    let timed = |what: &str, times: u32, f: &mut dyn FnMut()| {
        let mut took: Vec<Duration> = (0..times)
            .map(|_| {
                let start = Instant::now();
                f();
                start.elapsed()
            })
            .collect();
        took.sort();
        println!("{what}: median {:?}, worst {:?}", took[took.len() / 2], took[took.len() - 1]);
    };
    {
        let cookie = world.pod.cookie();
        timed("enrol and withdraw", 20, &mut || {
            world.enrol();
            world.kernel().withdraw(cookie).unwrap();
        });
        timed("enrol", 1, &mut || world.enrol());
        timed("enrol again", 20, &mut || world.enrol());
        let listeners = world.listeners.all();
        timed("set listeners", 20, &mut || world.kernel().set_listeners(cookie, &listeners).unwrap());
        let (local, remote) = (at(POD[0], 80), at(OUTSIDE[0], 40_000));
        timed("1,000 x opened_by_node", 20, &mut || {
            for _ in 0..1000 {
                assert!(!world.kernel().opened_by_node(cookie, local, remote));
            }
        });
    }
    timed("load, adopting one pod", 10, &mut || world.load().unwrap());
}
