//! The targets of `tests/hostile` under libFuzzer: one program, the target named by `S2_FUZZ`. Run by `scripts/fuzz.sh`.
//!
//! Without a name it lists them. `S2_FUZZ_SEEDS=DIR` writes the target's seeds there and ends.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/hostile/mod.rs"]
mod hostile;

use std::path::Path;
use std::sync::OnceLock;

use hostile::{TARGETS, Target};

static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

fn choose() {
    let name = std::env::var("S2_FUZZ").unwrap_or_default();
    let Some(target) = TARGETS.iter().find(|t| t.name == name) else {
        TARGETS.iter().for_each(|t| println!("{}", t.name));
        std::process::exit(if name.is_empty() { 0 } else { 2 });
    };
    if let Ok(to) = std::env::var("S2_FUZZ_SEEDS") {
        for (i, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(Path::new(&to).join(format!("seed-{i}")), seed).expect("the folder is there");
        }
        std::process::exit(0);
    }
    let _ = CHOSEN.set(target);
}

libfuzzer_sys::fuzz_target!(
    init: choose(),
    |data: &[u8]| {
        if let Some(target) = CHOSEN.get() {
            (target.run)(data);
        }
    }
);
