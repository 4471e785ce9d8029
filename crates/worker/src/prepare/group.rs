//! Which operations are one job. Pure.
//!
//! A job costs a thread its wake-up, and a report. A small operation takes less than either, so neighbours of one kind,
//! as the gateway sends them, are done one after the other and answered together. What takes long is a job of its own.

use std::mem::discriminant;

use protocol::message::{Operation, OperationKind};

/// Most operations of a job: several threads are to have something of a full frame.
const MAX_COUNT: usize = 32;

/// Most bytes of a job: some milliseconds of tokenizing.
const MAX_BYTES: usize = 16 << 10;

/// Something that is, or comes with, an operation.
pub(super) trait HasOperation {
    fn operation(&self) -> &Operation;
}

/// Cuts a list into jobs, in order.
pub(super) fn into_groups<T: HasOperation>(operations: Vec<T>) -> Vec<Vec<T>> {
    let mut groups: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0;
    for item in operations {
        let size = bytes_of(&item.operation().kind);
        bytes += size;
        match groups.last_mut() {
            Some(group)
                if group.len() < MAX_COUNT
                    && bytes <= MAX_BYTES
                    && group.last().is_some_and(|last| are_alike(last, &item)) =>
            {
                group.push(item);
            }
            _ => {
                bytes = size;
                groups.push(vec![item]);
            }
        }
    }
    groups
}

/// Bytes that an operation holds while it waits, and a measure of the work that it is.
pub(super) fn bytes_of(kind: &OperationKind) -> usize {
    match kind {
        // A whole tokenizer is read for it.
        OperationKind::CheckDraft { .. } => super::lanes::LONG + 1,
        kind => kind.approximate_bytes(),
    }
}

fn are_alike<T: HasOperation>(one: &T, other: &T) -> bool {
    discriminant(&one.operation().kind) == discriminant(&other.operation().kind)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::{
        ids::RequestId,
        message::{Prompt, TokenizeInput},
    };

    use super::*;

    impl HasOperation for Operation {
        fn operation(&self) -> &Operation {
            self
        }
    }

    fn kind() -> impl Strategy<Value = OperationKind> {
        let text = prop_oneof![8 => 0..60usize, 1 => 0..3 * MAX_BYTES].prop_map(|len| "x".repeat(len));
        prop_oneof![
            4 => text.prop_map(|text| OperationKind::Count(TokenizeInput::new(Prompt::Text(text)))),
            4 => (0..40usize).prop_map(|len| OperationKind::Detokenize {
                tokens: vec![1; len],
                skip_special_tokens: true,
            }),
            1 => Just(OperationKind::CheckDraft { draft: "d".into() }),
        ]
    }

    proptest! {
        #[test]
        fn groups_are_bounded_alike_and_as_few_as_possible(
            runs in prop::collection::vec((kind(), 1..80usize), 0..6),
        ) {
            let kinds = runs.into_iter().flat_map(|(kind, count)| vec![kind; count]);
            let operations: Vec<_> =
                kinds.zip(0..).map(|(kind, id)| Operation { id: RequestId(id), kind }).collect();
            let groups = into_groups(operations.clone());
            let bytes = |group: &[Operation]| group.iter().map(|it| bytes_of(&it.kind)).sum::<usize>();
            for group in &groups {
                prop_assert!(!group.is_empty() && group.len() <= MAX_COUNT);
                prop_assert!(group.len() == 1 || bytes(group) <= MAX_BYTES);
                prop_assert!(group.windows(2).all(|pair| are_alike(&pair[0], &pair[1])));
            }
            for pair in groups.windows(2) {
                let [one, next] = pair else { unreachable!() };
                let fits = one.len() < MAX_COUNT && bytes(one) + bytes(&next[..1]) <= MAX_BYTES;
                prop_assert!(!fits || !are_alike(&one[0], &next[0]), "they could have been one");
            }
            prop_assert_eq!(groups.concat(), operations);
        }
    }
}
