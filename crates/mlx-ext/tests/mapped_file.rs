//! Arrays over files: where they lie, what they hold, how long the mapping lives.

#![allow(clippy::unwrap_used)]

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
};

use half::f16;
use mlx_ext::{MapError, MappedFile};
#[cfg(target_os = "linux")]
use mlx_rs::transforms::eval;
use mlx_rs::{Array, ArrayElement, Dtype};

const GIB: u64 = 1 << 30;

fn file_of(bytes: &[u8]) -> File {
    mlx_ext::init().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Byte `i` of the file is `i * 7 mod 251`, so that neighbouring places differ.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251) as u8).collect()
}

fn address<T: ArrayElement>(array: &Array) -> usize {
    array.as_slice::<T>().as_ptr().addr()
}

#[test]
fn a_view_lies_in_the_mapping_for_every_element_size() {
    let bytes = pattern(100_000);
    let file = MappedFile::map(&file_of(&bytes)).unwrap();
    assert_eq!(file.len(), 100_000);

    // Offsets aligned to the element and to nothing more; within, across and beyond a 16 KiB row.
    let byte = file.array(16_383, &[3], Dtype::Uint8).unwrap();
    let half = file.array(20_002, &[3, 5], Dtype::Float16).unwrap();
    let word = file.array(12, &[40, 1, 500], Dtype::Uint32).unwrap();
    let long = file.array(65_528, &[2, 2], Dtype::Int64).unwrap();
    assert_eq!(address::<u8>(&byte), file.addr() + 16_383);
    assert_eq!(address::<f16>(&half), file.addr() + 20_002);
    assert_eq!(address::<u32>(&word), file.addr() + 12);
    assert_eq!(address::<i64>(&long), file.addr() + 65_528);

    assert_eq!(byte.as_slice::<u8>(), &bytes[16_383..16_386]);
    assert_eq!(half.shape(), [3, 5]);
    let halves: Vec<f16> = chunks(&bytes[20_002..20_032], f16::from_le_bytes);
    assert!(half.as_slice::<f16>().iter().zip(&halves).all(|(a, b)| a.to_bits() == b.to_bits()));
    let words: Vec<u32> = chunks(&bytes[12..80_012], u32::from_le_bytes);
    assert_eq!(word.as_slice::<u32>(), words);
    let longs: Vec<i64> = chunks(&bytes[65_528..65_560], i64::from_le_bytes);
    assert_eq!(long.as_slice::<i64>(), longs);
}

fn chunks<T, const N: usize>(bytes: &[u8], from: fn([u8; N]) -> T) -> Vec<T> {
    bytes.chunks_exact(N).map(|chunk| from(chunk.try_into().unwrap())).collect()
}

#[test]
fn quantized_weights_multiply_out_of_the_mapping() {
    // One row of 32 values 0..=15, 0..=15 (4 bits each), scale 0.5, bias -1, behind two odd bytes.
    let mut bytes = vec![0xaa, 0xbb];
    bytes.extend(f16::from_f32(0.5).to_le_bytes());
    for _ in 0..2 {
        bytes.extend(0x7654_3210_u32.to_le_bytes());
        bytes.extend(0xfedc_ba98_u32.to_le_bytes());
    }
    bytes.extend(f16::from_f32(-1.0).to_le_bytes());
    let file = MappedFile::map(&file_of(&bytes)).unwrap();
    let scales = file.array(2, &[1, 1], Dtype::Float16).unwrap();
    let weight = file.array(4, &[1, 4], Dtype::Uint32).unwrap();
    let biases = file.array(20, &[1, 1], Dtype::Float16).unwrap();

    let x = Array::from_slice(&[1.0_f32; 32], &[1, 32]);
    let y = mlx_rs::ops::quantized_matmul(&x, &weight, &scales, &biases, true, 32, 4).unwrap();
    let expected: f32 = (0..16).map(|q| 2.0 * (0.5 * q as f32 - 1.0)).sum();
    assert_eq!(y.as_slice::<f32>(), [expected]);
    assert_eq!(address::<u32>(&weight), file.addr() + 4);
}

#[test]
fn arithmetic_leaves_the_file_alone() {
    let mut handle = file_of(&2.5_f32.to_le_bytes().repeat(8192));
    let file = MappedFile::map(&handle).unwrap();
    let mut a = file.array(0, &[8192], Dtype::Float32).unwrap();
    a.eval().unwrap();
    // Now `a` alone holds the data, which MLX may take for a result. (A GPU must not: the handle is kept there.)
    let _kept = if cfg!(target_os = "linux") { None } else { Some(file) };
    for _ in 0..3 {
        a = a.add(Array::from_f32(1.0)).unwrap();
        a.eval().unwrap();
    }
    assert!(a.as_slice::<f32>().iter().all(|&value| value == 5.5));
    let mut on_disk = Vec::new();
    handle.seek(SeekFrom::Start(0)).unwrap();
    std::io::Read::read_to_end(&mut handle, &mut on_disk).unwrap();
    assert_eq!(on_disk, 2.5_f32.to_le_bytes().repeat(8192));
}

#[cfg(target_os = "linux")]
#[test]
fn the_last_array_unmaps() {
    mlx_ext::init().unwrap();
    let mut path = tempfile::NamedTempFile::new().unwrap();
    path.write_all(&pattern(40_000)).unwrap();
    let mapped =
        || std::fs::read_to_string("/proc/self/maps").unwrap().contains(path.path().to_str().unwrap());

    let file = MappedFile::map(&File::open(path.path()).unwrap()).unwrap();
    let first = file.array(0, &[100], Dtype::Uint8).unwrap();
    let second = file.array(30_000, &[100], Dtype::Uint32).unwrap();
    eval([&first, &second]).unwrap();
    drop(file);
    assert!(mapped(), "two arrays still use the mapping");
    assert_eq!(first.as_slice::<u8>(), &pattern(100)[..]);
    drop(first);
    assert!(mapped(), "one array still uses the mapping");
    assert_eq!(second.as_slice::<u32>().len(), 100);
    drop(second);
    assert!(!mapped(), "nothing uses the mapping");
}

#[test]
fn what_does_not_fit_is_refused() {
    let file = MappedFile::map(&file_of(&pattern(1000))).unwrap();
    assert!(matches!(
        file.array(998, &[3], Dtype::Uint8),
        Err(MapError::OutOfRange { offset: 998, end: 1001, len: 1000 })
    ));
    assert!(matches!(file.array(u64::MAX, &[1], Dtype::Uint8), Err(MapError::OutOfRange { .. })));
    assert!(matches!(
        file.array(2, &[3], Dtype::Uint32),
        Err(MapError::Misaligned { offset: 2, dtype: Dtype::Uint32 })
    ));
    assert!(matches!(file.array(0, &[4, -1], Dtype::Uint8), Err(MapError::Shape { .. })));
    assert!(matches!(file.array(0, &[0], Dtype::Uint8), Err(MapError::Shape { .. })));
    let huge = [i32::MAX, i32::MAX, i32::MAX];
    assert!(matches!(file.array(0, &huge, Dtype::Uint8), Err(MapError::Shape { .. })));
    assert!(matches!(MappedFile::map(&file_of(&[])), Err(MapError::Empty)));
    assert!(file.array(996, &[1], Dtype::Uint32).is_ok());
}

#[test]
fn files_beyond_two_gib_work_to_their_last_byte() {
    if mlx_ext::init().unwrap() == mlx_ext::Device::Gpu {
        // A GPU takes a mapping as one buffer, and small machines' buffers end below this.
        return;
    }
    let len = 5 * GIB + 12; // its last row of 16 KiB is a stub
    let mut handle = tempfile::tempfile().unwrap();
    handle.set_len(len).unwrap();
    handle.seek(SeekFrom::Start(len - 12)).unwrap();
    for value in [1_u32, 2, 3] {
        handle.write_all(&value.to_le_bytes()).unwrap();
    }
    let file = MappedFile::map(&handle).unwrap();
    let end = file.array(len - 12, &[3], Dtype::Uint32).unwrap();
    assert_eq!(end.as_slice::<u32>(), [1, 2, 3]);
    assert_eq!(address::<u32>(&end), file.addr() + (len - 12) as usize);

    // One tensor that is itself over 2 GiB; only its pointer is looked at.
    let big = file.array(GIB, &[32_768, 20_000], Dtype::Float32).unwrap();
    big.eval().unwrap();
    assert_eq!(address::<f32>(&big), file.addr() + GIB as usize);
}

/// Sparse: only its length counts.
#[cfg(target_os = "linux")]
#[test]
fn a_file_larger_than_memory_is_mapped() {
    mlx_ext::init().unwrap();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let kib = |key: &str| {
        let line = meminfo.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let len = 2 * 1024 * (kib("MemTotal:") + kib("SwapTotal:"));
    let handle = tempfile::tempfile().unwrap();
    handle.set_len(len).unwrap();
    let file = MappedFile::map(&handle).unwrap();
    assert_eq!(file.len(), len);
    let end = file.array(len - 4, &[1], Dtype::Uint32).unwrap();
    assert_eq!(end.as_slice::<u32>(), [0]);
}

#[test]
fn a_misaligned_array_is_a_copy() {
    let bytes = pattern(1000);
    let file = MappedFile::map(&file_of(&bytes)).unwrap();
    let halves = file.copy(3, &[4, 5], Dtype::Float16).unwrap();
    assert_eq!(halves.shape(), [4, 5]);
    let expected: Vec<f16> = chunks(&bytes[3..43], f16::from_le_bytes);
    assert!(halves.as_slice::<f16>().iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
    let scalar = file.copy(1, &[], Dtype::Uint32).unwrap();
    assert_eq!(
        (scalar.ndim(), scalar.as_slice::<u32>()),
        (0, chunks(&bytes[1..5], u32::from_le_bytes).as_slice())
    );
    assert!(matches!(file.copy(997, &[2], Dtype::Float16), Err(MapError::OutOfRange { .. })));
    assert!(matches!(file.copy(0, &[0], Dtype::Float16), Err(MapError::Shape { .. })));
}

#[test]
fn errors_of_mlx_are_errors_of_rust() {
    mlx_ext::init().unwrap();
    let a = Array::from_slice(&[1.0_f32; 6], &[2, 3]);
    let error = a.matmul(&a).unwrap_err();
    assert!(error.what().contains("matmul"), "{error}");
    assert_eq!(mlx_ext::Device::current().unwrap(), mlx_ext::init().unwrap());
}
