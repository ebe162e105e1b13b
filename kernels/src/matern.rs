//! Matérn's kernel of distances.

use crate::exponential::exp_of_nonpositive_f64;
use crate::level::at_every_level;

at_every_level! {
    /// Matérn's kernel of smoothness 5/2 with this length scale, in place of distances: (1 + s + s²/3)·e⁻ˢ of s = √5 ·
    /// distance/length.
    pub fn matern52(length: f64, distances: &mut [f64]) = matern52_body
}

#[inline(always)]
fn matern52_body(length: f64, distances: &mut [f64]) {
    let scale = 5_f64.sqrt() / length;
    for distance in distances {
        let scaled = *distance * scale;
        *distance = (1.0 + scaled + scaled * scaled / 3.0) * exp_of_nonpositive_f64(-scaled);
    }
}
