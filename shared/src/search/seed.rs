//! The seeds of proposals.

/// 2⁶⁴ over the golden ratio: its multiples lie far apart.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The seed that a search of this seed proposes trial `number` with, far from its neighbours'. Whoever fits the same model
/// with it gets the fit that proposed.
pub fn proposal_seed(seed: u64, number: usize) -> u64 {
    following_seed(following_seed(seed, number), 1)
}

/// The seed of the proposal that comes `count` after the one of `seed`.
pub(super) fn following_seed(seed: u64, count: usize) -> u64 {
    seed.wrapping_add((count as u64).wrapping_mul(STEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_of_proposals_are_what_recorded_studies_were_made_with() {
        // Neither may change: a study that is taken up would go on otherwise than it was begun.
        assert_eq!(proposal_seed(0, 0), 0x9e37_79b9_7f4a_7c15);
        assert_eq!(proposal_seed(3, 4), 3_u64.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(5)));
        assert_eq!(following_seed(proposal_seed(7, 4), 3), proposal_seed(7, 7));
    }
}
