//! Numbers as integers of the same order.

const SIGN: u64 = 1 << 63;

/// An integer that orders as [`f64::total_cmp`] does.
pub(super) fn ordered(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

/// The number of such an integer.
pub(super) fn from_ordered(integer: u64) -> f64 {
    f64::from_bits(if integer & SIGN == 0 { !integer } else { integer & !SIGN })
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn integers_order_as_the_numbers_do_and_give_them_back(a in any::<u64>(), b in any::<u64>()) {
            let (a, b) = (f64::from_bits(a), f64::from_bits(b));
            prop_assert_eq!(ordered(a).cmp(&ordered(b)), a.total_cmp(&b));
            prop_assert_eq!(from_ordered(ordered(a)).to_bits(), a.to_bits());
        }
    }
}
