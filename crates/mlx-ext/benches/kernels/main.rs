//! Our products, experts and attention, beside MLX's operations, a plain read of the same bytes, and the peak of the instruction
//! used. Started by `cargo xtask bench kernels`.

#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stdout)]

mod attention;
mod bandwidth;
mod experts;
mod peak;
mod products;
mod timing;
mod weights;

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
    products::run(integer.as_ref(), float.as_ref());
    experts::run(integer.as_ref());
    attention::run(float.as_ref());
}
