//! safetensors files, written by the format's definition.

use serde_json::json;

/// A tensor of a safetensors file: name, type, shape, bytes.
pub type RawTensor<'a> = (&'a str, &'a str, Vec<u64>, Vec<u8>);

/// A file of F32 tensors of one dimension.
pub fn safetensors(tensors: &[(&str, Vec<f32>)]) -> Vec<u8> {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, values)| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (*name, "F32", vec![values.len() as u64], bytes)
        })
        .collect();
    raw_safetensors(&tensors, 0)
}

/// A file whose data start `shift` bytes after a multiple of 8. Nothing is checked: tests need wrong files, too.
///
/// # Panics
/// Never: the header is made of names and numbers.
pub fn raw_safetensors(tensors: &[RawTensor<'_>], shift: usize) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend(bytes);
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()] });
        header.insert((*name).to_owned(), entry);
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8) + shift, b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}
