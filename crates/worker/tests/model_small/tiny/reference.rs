//! The llama architecture in plain loops over f64: the whole sequence at once, no keys kept.

use std::f64::consts::PI;

use super::Tiny;

const EPS: f64 = 1e-5;

/// Logits after each of `tokens`.
pub(crate) fn logits(model: &Tiny, tokens: &[u32]) -> Vec<Vec<f64>> {
    let s = &model.spec;
    let embedding = &model.values["model.embed_tokens"];
    let mut x: Vec<Vec<f64>> =
        tokens.iter().map(|&t| embedding[t as usize * s.hidden..][..s.hidden].to_vec()).collect();
    for layer in 0..s.layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let normed = each(&x, |row| norm(model, &name("input_layernorm"), row));
        add(&mut x, &attention(model, &name("self_attn"), &normed));
        let normed = each(&x, |row| norm(model, &name("post_attention_layernorm"), row));
        let mlp = each(&normed, |row| {
            let gate = linear(model, &name("mlp.gate_proj"), row);
            let up = linear(model, &name("mlp.up_proj"), row);
            let inner: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            linear(model, &name("mlp.down_proj"), &inner)
        });
        add(&mut x, &mlp);
    }
    let head = if s.tied { "model.embed_tokens" } else { "lm_head" };
    each(&x, |row| linear(model, head, &norm(model, "model.norm", row)))
}

fn attention(model: &Tiny, name: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let s = &model.spec;
    let project = |part: &str| each(x, |row| linear(model, &format!("{name}.{part}"), row));
    let (mut q, mut k, v) = (project("q_proj"), project("k_proj"), project("v_proj"));
    for (position, (q, k)) in q.iter_mut().zip(&mut k).enumerate() {
        q.chunks_mut(s.head_dim)
            .chain(k.chunks_mut(s.head_dim))
            .for_each(|head| rotate(model, head, position));
    }
    let attended = (0..x.len()).map(|position| {
        (0..s.heads)
            .flat_map(|head| {
                let own = |row: &[f64], head: usize| row[head * s.head_dim..][..s.head_dim].to_vec();
                let kv_head = head * s.kv_heads / s.heads;
                let query = own(&q[position], head);
                let scores: Vec<f64> = (0..=position)
                    .map(|other| dot(&query, &own(&k[other], kv_head)) / (s.head_dim as f64).sqrt())
                    .collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mut mixed = vec![0.0; s.head_dim];
                for (weight, v) in weights.iter().zip(&v) {
                    for (m, v) in mixed.iter_mut().zip(own(v, kv_head)) {
                        *m += weight / sum * v;
                    }
                }
                mixed
            })
            .collect::<Vec<f64>>()
    });
    let attended: Vec<Vec<f64>> = attended.collect();
    each(&attended, |row| linear(model, &format!("{name}.o_proj"), row))
}

/// Rotates pairs that are half a head apart.
fn rotate(model: &Tiny, head: &mut [f64], position: usize) {
    let half = head.len() / 2;
    for pair in 0..half {
        let frequency = frequency(model, pair as f64 / half as f64);
        let (sin, cos) = (position as f64 * frequency).sin_cos();
        let (a, b) = (head[pair], head[pair + half]);
        head[pair] = a * cos - b * sin;
        head[pair + half] = a * sin + b * cos;
    }
}

fn frequency(model: &Tiny, exponent: f64) -> f64 {
    let plain = model.spec.rope_theta.powf(-exponent);
    let scaling = &model.spec.rope_scaling;
    let number = |name: &str| scaling[name].as_f64().unwrap();
    match scaling["rope_type"].as_str() {
        None => plain,
        Some("linear") => plain / number("factor"),
        Some("llama3") => {
            let wavelength = 2.0 * PI / plain;
            let old = number("original_max_position_embeddings");
            let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
            if wavelength > old / low {
                plain / number("factor")
            } else if wavelength < old / high {
                plain
            } else {
                let smooth = (old / wavelength - low) / (high - low);
                (1.0 - smooth) * plain / number("factor") + smooth * plain
            }
        }
        Some(other) => panic!("no reference for {other}"),
    }
}

fn norm(model: &Tiny, name: &str, x: &[f64]) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    x.iter().zip(&model.values[name]).map(|(v, weight)| v / (mean + EPS).sqrt() * weight).collect()
}

fn linear(model: &Tiny, name: &str, x: &[f64]) -> Vec<f64> {
    let mut y: Vec<f64> = model.values[name].chunks(x.len()).map(|row| dot(row, x)).collect();
    if let Some(bias) = model.values.get(&format!("{name}.bias")) {
        y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
    }
    y
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [Vec<f64>], y: &[Vec<f64>]) {
    x.iter_mut().flatten().zip(y.iter().flatten()).for_each(|(x, y)| *x += y);
}

fn each(x: &[Vec<f64>], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<Vec<f64>> {
    x.iter().map(|row| f(row)).collect()
}
