//! Workers are killed and frozen under load, and no stream notices more than a pause: a small `cargo xtask chaos`.

use serde_json::Value;

use crate::load::Trivial;

/// Tokens a second of each stream.
const RATE: u32 = 50;

/// Of each stream: it takes a fifth of a second, so that each attack meets others.
const TOKENS: &str = "10";

/// Workers are started again however often and as soon as they die, and a frozen one is soon noticed.
const SETTINGS: &str = "workers:\n  crash_loop_deaths: 1000\n  restart_backoff_ms: 10\n  heartbeat_timeout_ms: 2500\n\
                        stream_registry:\n  adaptive_limits: {max_streams: 16}\n";

/// Attacks `workers`, and fails if a stream was lost, changed, or not ended by exactly one event.
fn attack(workers: u32, attacks: &[&str]) -> Value {
    let gateway = Trivial::start(workers, RATE, SETTINGS);
    let mut experiment = vec!["chaos", "--streams", "16", "--tokens", TOKENS];
    experiment.extend_from_slice(attacks);
    let (report, is_clean) = gateway.load(&experiment);
    assert!(is_clean, "{report}");
    assert_eq!(report["whole"], report["streams"], "{report}");
    report
}

#[test]
fn streams_outlive_workers_that_are_killed() {
    let report = attack(2, &["--duration", "6s", "--every", "1s", "--freezes", "0"]);
    assert_eq!(report["kills"].as_u64().unwrap() + report["missed"].as_u64().unwrap(), 5, "{report}");
    assert!(report["kills"].as_u64() > Some(2) && report["streams"].as_u64() > Some(32), "{report}");
}

#[test]
fn streams_outlive_their_only_worker() {
    let report = attack(1, &["--duration", "4s", "--every", "1s", "--freezes", "0"]);
    assert!(report["kills"].as_u64() > Some(1), "{report}");
}

#[test]
fn streams_outlive_a_worker_that_freezes() {
    let report = attack(2, &["--duration", "7s", "--every", "4s", "--freezes", "1"]);
    assert_eq!(report["freezes"], 1, "{report}");
}

#[test]
fn random_moments_are_no_worse() {
    // With this seed they are more than a second apart.
    attack(2, &["--duration", "5s", "--every", "1s", "--random", "--freezes", "0", "--seed", "34"]);
}
