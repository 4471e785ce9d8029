//! What the fuzz targets in `fuzz/` do with their input; the unit tests below do it with less of it.

use std::collections::HashSet;

use crate::{
    Quantization,
    gguf::{
        RopeFactors, architectures, definitions, micro_scaled, reader::Gguf, tokenizer::Tokenizer,
        types::TensorType,
    },
    manifest::byte_len,
    weights::{self, HeaderTensor},
};

/// Bytes that claim to be a GGUF file: whatever is read of it lies inside it, and can be converted.
pub fn read_gguf(data: &[u8]) {
    let Ok(gguf) = Gguf::read(data, data.len() as u64) else { return };
    let mut total = 0;
    for tensor in &gguf.tensors {
        total += tensor.len;
        let bytes = &data[tensor.offset as usize..(tensor.offset + tensor.len) as usize];
        let _ = tensor.kind.values(bytes, &mut Vec::new());
        assert_eq!(tensor.kind.byte_len(&tensor.shape), Some(tensor.len));
    }
    assert!(total <= data.len() as u64, "tensors overlap");
    let factors = RopeFactors { long: Some(vec![1.0; 16]), short: Some(vec![1.0; 16]), llama3: None };
    for factors in [&RopeFactors::default(), &factors] {
        let _ = architectures::map(&gguf, factors, Quantization::new(4, 32));
    }
    if let Ok(tokenizer) = Tokenizer::read(&gguf.metadata) {
        assert!(tokenizer.eos_token_ids.iter().all(|id| u64::from(*id) < tokenizer.size));
    }
}

/// Bytes that claim to be a safetensors file: its tensors cover the data once, and a header of them can be written.
pub fn read_safetensors(data: &[u8]) {
    let Ok(tensors) = weights::read_header(&mut &*data, data.len() as u64) else { return };
    let mut names = HashSet::new();
    for (tensor, next) in tensors.iter().zip(tensors.iter().skip(1).map(Some).chain([None])) {
        let HeaderTensor { name, dtype, shape, offset, len } = tensor;
        assert!(names.insert(name), "`{name}` occurs twice");
        assert_eq!(byte_len(*dtype, shape), Some(*len));
        assert_eq!(offset + len, next.map_or(data.len() as u64, |next| next.offset));
    }
    let described =
        tensors.iter().map(|tensor| (tensor.name.clone(), tensor.dtype, tensor.shape.clone())).collect();
    let Ok((header, placed)) = weights::write_header(described) else {
        panic!("what was read cannot be written")
    };
    let lengths = |tensors: &[HeaderTensor]| tensors.iter().map(|tensor| tensor.len).collect::<Vec<_>>();
    assert_eq!(lengths(&placed), lengths(&tensors));
    let file_len = header.len() as u64 + lengths(&placed).iter().sum::<u64>();
    assert!(weights::read_header(&mut &*header, file_len).is_ok_and(|again| again == placed));
}

/// Blocks of a type that the first byte chooses: values are those of the definition, or refused.
pub fn convert_blocks(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    let kind = definitions::QUANTIZED[usize::from(*choice) % definitions::QUANTIZED.len()];
    let len = kind.block().1 as usize;
    let blocks = &data[..data.len() / len * len];
    let expected: Vec<f32> = blocks.chunks(len).flat_map(|block| definitions::values(kind, block)).collect();
    let mut values = Vec::new();
    if kind == TensorType::Mxfp4 {
        let (mut elements, mut scales) = (Vec::new(), Vec::new());
        let repacked = micro_scaled::repack(blocks, &mut elements, &mut scales);
        assert_eq!(repacked.is_ok(), expected.iter().all(|value| value.is_finite()), "the same is refused");
        if repacked.is_ok() {
            assert_eq!((elements.len(), scales.len()), (expected.len() / 2, expected.len() / 32));
        }
    }
    match kind.values(blocks, &mut values) {
        Ok(()) => assert_eq!(values, expected),
        Err(_) => assert!(expected.iter().any(|value| !value.is_finite()), "{kind:?} was refused"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
        // Small numbers too: as counts and types, they get further than random ones.
        vec(prop_oneof![any::<u8>(), 0..4_u8], 0..len)
    }

    /// A number as GGUF files have it, mostly small.
    fn number() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![8 => 0..4_u64, 1 => any::<u64>()].prop_map(|number| number.to_le_bytes().to_vec())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn anything_may_be_a_gguf_file(tensors in number(), keys in number(), rest in bytes(300)) {
            read_gguf(&rest);
            read_gguf(&[&b"GGUF\x03\0\0\0"[..], &tensors, &keys, &rest].concat());
        }

        /// A key whose value is an array, and a tensor, of any kinds and sizes.
        #[test]
        fn any_array_and_any_tensor_may_be_in_a_gguf_file(
            array in (0..14_u8, number()), dims in vec(number(), 0..6), kind in 0..42_u8, offset in number(), rest in bytes(900),
        ) {
            let small = |number: u8| vec![number, 0, 0, 0];
            let parts = [
                b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec(),
                b"\x01\0\0\0\0\0\0\0a".to_vec(),
                small(9),
                small(array.0),
                array.1,
                b"\x01\0\0\0\0\0\0\0b".to_vec(),
                small(dims.len() as u8),
                dims.concat(),
                small(kind),
                offset,
                rest,
            ];
            read_gguf(&parts.concat());
        }

        #[test]
        fn anything_may_be_a_safetensors_file(
            len in number(), dims in vec(0..9_u64, 0..3), offsets in (0..40_u64, 0..40_u64), rest in bytes(100),
        ) {
            read_safetensors(&[len, rest.clone()].concat());
            let header = serde_json::json!({
                "a": { "dtype": "BF16", "shape": dims, "data_offsets": offsets },
                "b": { "dtype": "U8", "shape": [3], "data_offsets": [offsets.1, offsets.1 + 3] },
            });
            let header = header.to_string();
            read_safetensors(&[&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &rest].concat());
        }

        #[test]
        fn any_bytes_may_be_blocks(choice in any::<u8>(), blocks in bytes(700)) {
            convert_blocks(&[&[choice], &*blocks].concat());
        }
    }
}
