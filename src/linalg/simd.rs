//! Elementwise functions written so that the compiler turns a loop over them into SIMD code.
//!
//! [`vectorized!`] declares a function that is compiled for several instruction sets and runs for the best
//! that this machine has; the functions here are branch-free and always inlined, so loops over them in such
//! a function become vector loops. A result is the same on every instruction set: none fuses multiplication and addition but where
//! it says so (`mul_add`), and there a processor without such an instruction rounds once in software, slowly.

/// Declares a function whose loops are compiled for AVX-512, for AVX2 and for any machine, and chosen among at run time.
///
/// What the body calls has to be `#[inline(always)]`, or it is compiled for any machine only. (A closure given to a
/// function that switches instructions on would not do: the compiler is free not to inline it, and did not.)
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn any($($arg: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
                fn avx512($($arg: $type),*) $(-> $result)? {
                    any($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $result)? {
                    any($($arg),*)
                }
                if $crate::linalg::simd::has_avx512() {
                    // SAFETY: the machine has these instructions.
                    return unsafe { avx512($($arg),*) };
                }
                if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            any($($arg),*)
        }
    };
}
pub(crate) use vectorized;

/// Whether [`vectorized!`] may use AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn has_avx512() -> bool {
    use std::is_x86_feature_detected as has;
    has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("fma")
}

/// eˣ, relative error below 2e-7; 0 below -87 and at most e⁸⁸.
///
/// What a model computes it computes by this: SparseGPT's models part at the last bit, so it stays as it is.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    exp_of::<false>(x)
}

/// a·b + c, in one rounding or in two.
#[inline(always)]
fn times_plus<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// As [`exp`] by fused multiply-adds, in two thirds of the time.
#[inline(always)]
pub fn exp_fused(x: f32) -> f32 {
    exp_of::<true>(x)
}

/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, and a polynomial for eʳ (Cephes `expf`).
#[inline(always)]
fn exp_of<const FUSED: bool>(x: f32) -> f32 {
    let times_plus = times_plus::<FUSED>;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// 1.5·2²³: adding and taking it away rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let rounded = times_plus(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = times_plus(n, -LN2_LOW, times_plus(n, -LN2_HIGH, clamped));
    let mut p: f32 = 1.987_569_2e-4;
    p = times_plus(p, r, 1.398_2e-3);
    p = times_plus(p, r, 8.333_452e-3);
    p = times_plus(p, r, 4.166_579_6e-2);
    p = times_plus(p, r, 1.666_666_6e-1);
    p = times_plus(p, r, 0.5);
    let e = times_plus(p * r, r, r) + 1.0;
    // The last bits of `rounded` are n; as an exponent they make 2ⁿ.
    let scale = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { e * scale }
}

/// ln x for a positive normal x by fused multiply-adds, relative error below 3e-7 (also near 1, where ln x is small).
///
/// x = m·2ᵉ with m in [√½, √2), and a polynomial for ln m (Cephes `logf`).
#[inline(always)]
pub fn ln_fused(x: f32) -> f32 {
    const SQRT_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;
    let bits = x.to_bits();
    let exponent = ((bits >> 23) as i32) - 126;
    let half = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000); // [0.5, 1)
    let small = half < SQRT_HALF;
    let e = if small { exponent - 1 } else { exponent } as f32;
    let f = if small { half + half } else { half } - 1.0;
    let mut p: f32 = 7.037_683_6e-2;
    p = p.mul_add(f, -1.151_461e-1);
    p = p.mul_add(f, 1.167_699_9e-1);
    p = p.mul_add(f, -1.242_014_1e-1);
    p = p.mul_add(f, 1.424_932_3e-1);
    p = p.mul_add(f, -1.666_805_8e-1);
    p = p.mul_add(f, 2.000_071_5e-1);
    p = p.mul_add(f, -2.499_999_4e-1);
    p = p.mul_add(f, 3.333_333e-1);
    let ff = f * f;
    let y = ff.mul_add(-0.5, (p * f).mul_add(ff, e * -2.121_944_4e-4));
    e.mul_add(0.693_359_4, f + y)
}

/// Independent sums that a vector loop can keep apart; also fixes the order of every summation.
pub const LANES: usize = 16;

/// The largest value of a slice, -∞ for an empty one.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m })
}

/// Σ x².
#[inline(always)]
pub fn sum_of_squares(values: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += v * v;
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|v| v * v).sum::<f32>()
}

/// eˣ of x ≤ 0, relative error below 1e-13; e⁻⁷⁰⁰ below that.
///
/// As [`exp`], with as many terms of the series of eʳ as double precision needs.
#[inline(always)]
pub fn exp_down(x: f64) -> f64 {
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    /// 1.5·2⁵²
    const ROUND: f64 = 6_755_399_441_055_744.0;
    /// 1/k! of the highest power first.
    const SERIES: [f64; 12] = [
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
    ];
    let clamped = x.max(-700.0);
    let shifted = clamped * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut series = SERIES[0];
    for term in &SERIES[1..] {
        series = series * r + term;
    }
    // The lowest bits of `shifted` are n, which go where the exponent stands.
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    (series * r + 1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_standard_library() {
        for i in -86_000..88_000 {
            let x = i as f32 * 1e-3;
            let expected = f64::from(x).exp();
            for exp in [exp, exp_fused] {
                assert!((f64::from(exp(x)) - expected).abs() <= 2e-7 * expected, "exp({x})");
            }
        }
        for exp in [exp, exp_fused] {
            assert_eq!([0.0, -1e9, f32::NEG_INFINITY].map(exp), [1.0, 0.0, 0.0]);
        }
    }

    #[test]
    fn exp_down_agrees_with_the_standard_library() {
        for i in 0..700_000 {
            let x = f64::from(i) * -1e-3;
            assert!((exp_down(x) - x.exp()).abs() <= 1e-13 * x.exp(), "exp({x})");
        }
        assert_eq!(exp_down(0.0), 1.0);
        assert!(exp_down(f64::NEG_INFINITY) < 1e-300);
    }

    #[test]
    fn ln_agrees_with_the_standard_library_also_near_one() {
        for i in 1..200_000 {
            for x in [i as f32 * 1e-2, 1.0 + i as f32 * 1e-7, 1.0 - i as f32 * 1e-7, i as f32 * 1e-30] {
                let expected = f64::from(x).ln();
                assert!((f64::from(ln_fused(x)) - expected).abs() <= 3e-7 * expected.abs() + 1e-12, "ln({x})");
            }
        }
        assert_eq!(ln_fused(1.0), 0.0);
    }

    #[inline(always)]
    fn all_of(x: f32) -> [u32; 3] {
        [exp(x), exp_fused(x), ln_fused(x.abs() + 1e-30)].map(f32::to_bits)
    }

    vectorized! {
        fn all_of_each(values: &[f32], out: &mut [[u32; 3]]) {
            out.iter_mut().zip(values).for_each(|(out, x)| *out = all_of(*x));
        }
    }

    /// This test is compiled for any machine, where what multiplies and adds at once is a function of the C library.
    #[test]
    fn a_result_is_the_same_on_every_instruction_set() {
        let values: Vec<f32> = (-900_000..900_000).map(|i| i as f32 * 1.037e-4).collect();
        let mut vectors = vec![[0; 3]; values.len()];
        all_of_each(&values, &mut vectors);
        values.iter().zip(vectors).for_each(|(x, found)| assert_eq!(found, all_of(*x), "{x}"));
    }

    #[test]
    fn max_looks_at_every_element() {
        for n in 0..40 {
            let values: Vec<f32> = (0..n).map(|i| ((i * 7919) % 31) as f32 - 40.0).collect();
            assert_eq!(max(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
