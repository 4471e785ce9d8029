#![allow(clippy::unwrap_used)]

use super::*;

const HEADS: KvHeads = KvHeads { kv: 2, dim: 8 };

fn blocks(dtype: Dtype) -> ArrayBlocks {
    mlx_ext::init().unwrap();
    ArrayBlocks::new(3, HEADS, dtype, 1000).unwrap()
}

/// So many bytes that no two blocks are alike.
fn bytes(blocks: usize, value_bytes: usize) -> Vec<u8> {
    (0..3 * blocks * 4 * 32 * 8 * value_bytes).map(|index| (index / 7 % 251) as u8).collect()
}

#[test]
fn blocks_are_read_as_they_were_written() {
    for (dtype, value_bytes) in [(Dtype::Float32, 4), (Dtype::Float16, 2), (Dtype::Bfloat16, 2)] {
        let blocks = blocks(dtype);
        let written = bytes(3, value_bytes);
        // Beyond what there is memory for at first.
        blocks.write_blocks(&[5, 2, 150], &written).unwrap();
        assert_eq!(blocks.read_blocks(&[5, 2, 150]).unwrap(), written);
        blocks.copy_block(2, 700).unwrap();
        assert_eq!(blocks.read_blocks(&[5, 700, 150]).unwrap(), written);
        assert_eq!(blocks.read_blocks(&[6, 1]).unwrap(), vec![0; 2 * written.len() / 3]);
        assert!(blocks.write_blocks(&[1, 2], &written).is_err() && blocks.write_blocks(&[], &[]).is_err());
    }
}

#[test]
fn what_was_appended_is_there_when_it_is_read() {
    let blocks = blocks(Dtype::Float32);
    blocks.prepare(0, false).unwrap();
    // The last head's values of the block's last token.
    let slot = blocks.first_page(0) * TOKENS + 4 * TOKENS - 1;
    let new = Array::full::<f32>(&[1, 1, 8], Array::from_f32(2.0)).unwrap();
    let slots = Array::from_slice(&[slot], &[1]);
    blocks.append(Appended { slots, layers: vec![new; 3] });
    let read = blocks.read_blocks(&[0]).unwrap();
    let values: Vec<f32> = read.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    for layer in values.chunks(4 * 32 * 8) {
        let (zeros, twos) = layer.split_at(4 * 32 * 8 - 8);
        assert!(zeros.iter().all(|&v| v == 0.0) && twos.iter().all(|&v| v == 2.0));
    }
}

/// Has MLX's thread compute something for a while: so what is begun behind it is still to be computed.
fn occupy() {
    let ones = Array::full::<f32>(&[800, 800], Array::from_f32(1.0)).unwrap();
    let product = (0..4).fold(ones.clone(), |product, _| product.matmul(&ones).unwrap());
    async_eval([&product]).unwrap();
}

/// While a step reads the blocks, MLX would copy all of them to write to one.
#[test]
fn what_is_read_is_not_written_to_until_it_has_been_computed() {
    let blocks = blocks(Dtype::Float32);
    blocks.prepare(0, false).unwrap();
    let before = blocks.addresses();
    let new = Array::full::<f32>(&[1, 1, 8], Array::from_f32(2.0)).unwrap();
    for turn in 0..4 {
        occupy();
        let pages = Array::from_slice(&[blocks.first_page(0)], &[1]);
        let read: Vec<Array> = (0..3).map(|layer| blocks.gather(layer, &pages).unwrap()).collect();
        async_eval(&read).unwrap();
        blocks.set_reader(read[2].clone());
        let slots = Array::from_slice(&[blocks.first_page(0) * TOKENS + turn], &[1]);
        blocks.append(Appended { slots, layers: vec![new.clone(); 3] });
        blocks.prepare(0, turn % 2 == 0).unwrap();
        assert_eq!(blocks.addresses(), before, "{turn}");
        // As it was: each even turn is written only with the next one.
        let written = if turn < 2 { 0 } else { 2 * 8 };
        assert!(
            read.iter().all(|page| page.as_slice::<f32>().iter().filter(|&&v| v == 2.0).count() == written)
        );
    }
}
