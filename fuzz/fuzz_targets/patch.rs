#![no_main]

#[allow(dead_code, reason = "every target has its own program")]
#[path = "../src/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::patch(bytes));
