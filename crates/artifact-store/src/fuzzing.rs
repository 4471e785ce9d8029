//! What the fuzz targets in `fuzz/` do with their input; the unit tests below do it with less of it.

use std::collections::HashSet;

use crate::{
    Dtype, Quantization,
    gguf::{
        RopeFactors, architectures, definitions, micro_scaled, reader::Gguf, tokenizer::Tokenizer,
        types::TensorType,
    },
    import::foreign::{Method, Rows, Shape, Tensors, converted},
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

/// Sizes of tensors that claim to be a packed matrix's, a byte each, and what is in them: a shape that is accepted has tensors
/// of just these sizes, and all of it can be converted.
pub fn convert_packed(data: &[u8]) {
    let Some((sizes, data)) = data.split_first_chunk::<9>() else { return };
    let [method, sides @ ..] = sizes.map(u64::from);
    let method = match method % 4 {
        0 => Method::Gptq { less_one: true },
        1 => Method::Gptq { less_one: false },
        2 => Method::Awq,
        _ => Method::CompressedTensors,
    };
    let tensor = |dtype: Dtype, shape: [u64; 2]| {
        let len = byte_len(dtype, &shape).unwrap_or_default();
        HeaderTensor { name: String::new(), dtype, shape: shape.to_vec(), offset: 0, len }
    };
    let [integers, zeros] = [0, 2].map(|side| tensor(Dtype::I32, [sides[side], sides[side + 1]]));
    let scales = tensor(Dtype::F16, [sides[4], sides[5]]);
    let has_zeros = !zeros.shape.contains(&0);
    // 0 stands for a size near the greatest.
    let size = [sides[6], sides[7]].map(|side| if side == 0 { u64::MAX / 4 } else { side });
    let tensors = Tensors {
        integers: &integers,
        scales: &scales,
        zeros: has_zeros.then_some(&zeros),
        size: Some(size),
    };
    let Ok(shape) = Shape::of(method, tensors) else { return };
    assert_eq!(integers.len * 8, shape.outputs * shape.inputs * shape.bits);
    assert_eq!(scales.len, shape.outputs * shape.groups() * 2);
    let mut data = data.iter().copied().cycle();
    let mut bytes = |tensor: &HeaderTensor| (0..tensor.len).map_while(|_| data.next()).collect::<Vec<u8>>();
    let [integers, scales] = [&integers, &scales].map(&mut bytes);
    let zeros = if has_zeros { bytes(&zeros) } else { Vec::new() };
    let len = integers.len();
    if len == 0 {
        return; // there is no data
    }
    let rows = Rows { outputs: shape.outputs as usize, integers, scales, zeros };
    let Some(group) = shape.stored_group() else { panic!("{shape:?} has no group") };
    if let Ok(parts) = converted(shape, &rows, Dtype::F32) {
        assert_eq!(parts.elements.len(), len);
        assert_eq!(parts.scales.len() as u64, shape.outputs * (shape.inputs / group) * 4);
        assert_eq!(parts.biases.len(), parts.scales.len());
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

        /// Any sizes, and those that fit together.
        #[test]
        fn any_tensors_may_be_a_packed_matrix(
            method in any::<u8>(), any_sides in vec(any::<u8>(), 8), bits in 1..9_u8, [outputs, inputs, groups] in [1..3_u8, 1..5_u8, 1..4_u8], data in bytes(200),
        ) {
            convert_packed(&[&[method], &*any_sides, &data].concat());
            // In units of 32 outputs and inputs.
            let (words_in, words_out) = (inputs * bits, outputs * bits);
            let (all_in, all_out) = (inputs.wrapping_mul(32), outputs * 32);
            let sides = match method % 4 {
                0 | 1 => [words_in, all_out, groups, words_out, groups, all_out, 1, 1],
                2 => [all_in, outputs * 4, groups, outputs * 4, groups, all_out, 1, 1],
                _ => [all_out, words_in, words_out, groups, all_out, groups, all_out, all_in],
            };
            convert_packed(&[&[method], &sides[..], &data].concat());
        }

        #[test]
        fn any_bytes_may_be_blocks(choice in any::<u8>(), blocks in bytes(700)) {
            convert_blocks(&[&[choice], &*blocks].concat());
        }
    }
}
