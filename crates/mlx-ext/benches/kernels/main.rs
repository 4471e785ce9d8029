//! Our products, experts, attention, states and whole layers, beside MLX's operations, a plain read of the same bytes, and the
//! peak of the instruction used. Started by `cargo xtask bench kernels`; arguments name the tables to print, and `--quick` makes
//! them fast and rough.

#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stdout)]

mod attention;
mod bandwidth;
mod experts;
mod layers;
mod peak;
mod products;
mod states;
mod timing;
mod weights;
mod work;

use peak::Peak;

fn main() {
    mlx_ext::init().unwrap();
    if mlx_ext::cpu::threads() == 0 {
        println!("the CPU primitives are not built for this system: nothing to measure");
        return;
    }
    println!("{} kernels, {} threads", mlx_ext::cpu::instructions(), mlx_ext::cpu::threads());
    let (integer, float) = (peak::integer(), peak::float());
    for peak in [&integer, &float].into_iter().flatten() {
        println!(
            "{}, registers only, all threads: {:.1} billion multiply-adds/s",
            peak.instruction,
            peak.rate / 1e9
        );
    }
    type Table = fn(Option<&Peak>, Option<&Peak>);
    let tables: [(&str, Table); 5] = [
        ("products", |integer, float| products::run(integer, float)),
        ("experts", |integer, _| experts::run(integer)),
        ("attention", |_, float| attention::run(float)),
        ("states", |_, float| states::run(float)),
        ("layers", |integer, _| layers::run(integer)),
    ];
    let wanted: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with('-')).collect();
    for (_, table) in
        tables.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|it| it == name))
    {
        table(integer.as_ref(), float.as_ref());
    }
}
