#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;

fn options(kv_bytes: u64, max_sequences: u32) -> WorkerOptions {
    WorkerOptions { kv_bytes, max_sequences, adapter_bytes: 0, ..WorkerOptions::default() }
}

fn share(left_bytes: u64, workers: u32, leaves_room: bool) -> MemoryShare {
    MemoryShare { max_bytes: 16 * GIB, left_bytes, workers, leaves_room }
}

#[test]
fn a_model_gets_what_is_left_and_leaves_half_of_it_where_others_may_come() {
    let needs = MemoryNeeds::new(&options(4 * GIB, 64), 5 * GIB, 1 << 17, 8192, 0);
    let kv = |share: MemoryShare| share.of_each_worker(&needs).unwrap().kv;
    assert_eq!(kv(MemoryShare::UNLIMITED), 4 * GIB);
    assert_eq!(kv(share(16 * GIB, 1, true)), 4 * GIB, "that is less than half");
    assert_eq!(kv(share(9 * GIB, 1, false)), 4 * GIB - PROGRAM_BYTES);
    assert_eq!(kv(share(9 * GIB, 1, true)), 2 * GIB - PROGRAM_BYTES);
    assert_eq!(kv(share(9 * GIB, 4, false)), GIB - PROGRAM_BYTES, "the weights are there once");
    let least = needs.least(1);
    assert_eq!(kv(share(least, 1, true)), needs.least_kv_bytes, "less would be of no use");
    assert_eq!(least, 5 * GIB + PROGRAM_BYTES + (1 << 17) * (2048 + 64 * 32));
}

#[test]
fn what_can_not_fit_is_said_in_the_users_terms() {
    let needs = MemoryNeeds::new(&options(4 * GIB, 64), 5 * GIB, 1 << 17, 8192, 0);
    let busy = share(5 * GIB, 1, true).of_each_worker(&needs).unwrap_err();
    assert!(busy.is_temporary());
    assert_eq!(
        busy.to_string(),
        "it needs 5.0 GiB for its weights and at least 768.0 MiB more (1 worker(s) with 512.0 MiB for keys and values and \
         256.0 MiB for anything else each), and 5.0 GiB are left of `memory.max_bytes`, which is 16.0 GiB; unload another \
         model, lower `worker.kv_max_bytes` so that others leave more, or raise `memory.max_bytes`"
    );
    let large = MemoryNeeds { weight_bytes: 16 * GIB, ..needs };
    let never = share(16 * GIB, 2, false).of_each_worker(&large).unwrap_err();
    assert!(!never.is_temporary());
    assert!(never.to_string().contains("raise `memory.max_bytes` if the machine has more"), "{never}");
}

#[test]
fn the_disk_adapters_and_the_cache_of_mlx_take_memory_too() {
    let none = options(GIB, 1);
    let disk = WorkerOptions { prefix_disk_bytes: 1, ..none.clone() };
    let other = |options: &WorkerOptions, cache| MemoryNeeds::new(options, 0, 1, 1, cache).other_bytes;
    assert_eq!(other(&none, 0), PROGRAM_BYTES);
    assert_eq!(other(&disk, 7), PROGRAM_BYTES + ON_THE_WAY_BYTES + 7);
    assert_eq!(other(&WorkerOptions { keep_prefixes: false, ..disk }, 0), PROGRAM_BYTES);
    assert_eq!(other(&WorkerOptions { adapter_bytes: 5, ..none }, 0), PROGRAM_BYTES + 5);
}

#[test]
fn bytes_are_written_for_people() {
    let written = |bytes| Bytes(bytes).to_string();
    assert_eq!(
        [written(1023), written(1536), written(5 << 20), written(3 << 29)],
        ["1023 bytes", "1.5 KiB", "5.0 MiB", "1.5 GiB"]
    );
}

proptest! {
    #[test]
    fn whatever_is_granted_fits_and_serves(
        left_bytes: u64,
        more in 0..u64::MAX,
        workers in 1..65_u32,
        leaves_room: bool,
        weight_bytes: u64,
        [kv_token_bytes, context, kv_bytes, cache_bytes] in [0..1_u64 << 40, 0..1 << 27, 1 << 20..1 << 50, 0..1 << 32],
        max_sequences in 1..4097_u32,
    ) {
        let max_bytes = left_bytes.saturating_add(more);
        let share = MemoryShare { max_bytes, left_bytes, workers, leaves_room };
        let options = options(kv_bytes, max_sequences);
        let needs = MemoryNeeds::new(&options, weight_bytes, kv_token_bytes, context, cache_bytes);
        match share.of_each_worker(&needs) {
            Ok(each) => {
                prop_assert!(needs.all(workers, each) <= left_bytes);
                prop_assert!(each.kv >= needs.least_kv_bytes && each.kv <= kv_bytes);
                // What a first worker was given, one that is started later gets as well, of what they all take.
                let again = MemoryShare { left_bytes: needs.all(workers, each), leaves_room: false, ..share };
                prop_assert_eq!(again.of_each_worker(&needs), Ok(each));
            }
            Err(shortage) => {
                prop_assert!(needs.least(workers) > left_bytes);
                prop_assert_eq!(shortage.is_temporary(), needs.least(workers) <= max_bytes);
            }
        }
    }
}
