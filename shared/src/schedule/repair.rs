//! Exact repair: real-valued target ranks become whole ranks that meet the budget to the last unit.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::BudgetError;
use super::order::ordered;

/// A module as the repair sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RepairModule {
    /// What one unit of rank costs; at least 1.
    pub cost: u64,
    /// Smallest rank allowed; 0 where the module may be dropped.
    pub floor: u32,
    /// Largest rank allowed; at least 1, or 0 for a module that is dropped.
    pub cap: u32,
    /// Rank wanted. Any finite number: below 1 counts as further from getting a unit, above the cap as closer to it.
    pub target: f64,
    /// Gradient norm, which decides between modules that miss their targets by the same amount.
    pub norm: f64,
}

impl RepairModule {
    /// Whether there is a rank for it.
    pub(super) fn has_room(&self) -> bool {
        self.cost > 0 && self.cap >= self.floor
    }
}

/// The least that the modules can use: every rank at its floor, and one unit where none has to be.
///
/// # Errors
/// More than is allowed.
pub(super) fn check_least(modules: &[RepairModule], allowed: u64) -> Result<(), BudgetError> {
    let floors = modules.iter().map(|module| u128::from(module.cost) * u128::from(module.floor)).sum::<u128>();
    let one = modules.iter().filter(|module| module.cap > 0).map(|module| u128::from(module.cost)).min().unwrap_or(0);
    let least = floors.max(one);
    if least <= u128::from(allowed) {
        return Ok(());
    }
    let least = u64::try_from(least).unwrap_or(u64::MAX);
    Err(if floors == 0 { BudgetError::NoUnit { allowed, least } } else { BudgetError::TooSmall { allowed, least } })
}

/// A module waiting for a unit. The greatest one gets it: the one furthest below its target, then the one with the
/// higher norm, then the one that comes first.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    missing: f64,
    norm: f64,
    index: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.missing.total_cmp(&other.missing).then(self.norm.total_cmp(&other.norm)).then(other.index.cmp(&self.index))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// Whole ranks close to their targets that use at most `allowed`.
///
/// Targets are rounded down, then every module is moved by the same number of units: the largest number, positive or
/// negative, that the budget bears. What is left is given out in single units, largest remainder first, ties by norm and
/// then by order. A module whose unit no longer fits is passed over, so in the end
///
/// - Σ cost·rank ≤ `allowed`, and floor ≤ rank ≤ cap;
/// - no module could take one more unit within the budget unless it is at its cap;
/// - whole targets that meet the budget come out unchanged;
/// - of two modules with equal cost and cap the one with the higher target never gets the lower rank;
/// - permuting the modules permutes the ranks, except among modules with equal remainder and equal norm, where the
///   earlier one is served first.
///
/// Takes O(n log n) time for n modules whose costs are within a constant factor of each other.
///
/// # Errors
/// A budget below the least rank in every module, or below a single unit of rank, a target or norm that is not finite, a cost
/// of 0, a cap below the floor.
pub fn repair(modules: &[RepairModule], allowed: u64) -> Result<Vec<u32>, BudgetError> {
    for (index, module) in modules.iter().enumerate() {
        if !module.target.is_finite() || !module.norm.is_finite() {
            return Err(BudgetError::NotFinite { module: index });
        }
        if !module.has_room() {
            return Err(BudgetError::NoRoom { module: index });
        }
    }
    check_least(modules, allowed)?;
    let targets: Vec<i64> = modules.iter().map(whole_target).collect();
    let level = highest_level(modules, &targets, u128::from(allowed));
    let mut ranks: Vec<u32> =
        modules.iter().zip(&targets).map(|(module, &target)| rank_at(module, target + level)).collect();
    let used: u128 = modules.iter().zip(&ranks).map(|(module, &rank)| u128::from(module.cost) * u128::from(rank)).sum();
    // `highest_level` keeps used ≤ allowed, so this fits and does not underflow.
    let mut left = u64::try_from(u128::from(allowed).saturating_sub(used)).unwrap_or(0);
    let mut waiting: Vec<Candidate> = modules
        .iter()
        .zip(&ranks)
        .enumerate()
        .map(|(index, (module, &rank))| Candidate { missing: missing(module, rank), norm: module.norm, index })
        .collect();
    // Nearly always everyone gets a unit before anyone gets a second one, so that those who wait again are a heap of their own.
    sort(&mut waiting);
    let mut again: BinaryHeap<Candidate> = BinaryHeap::new();
    let cheapest = modules.iter().map(|module| module.cost).min().unwrap_or(0);
    // What does not fit now never will: `left` only falls.
    while left >= cheapest {
        let next = if again.peek() > waiting.last() { again.pop() } else { waiting.pop() };
        let Some(candidate) = next else { break };
        let (Some(module), Some(rank)) = (modules.get(candidate.index), ranks.get_mut(candidate.index)) else {
            continue;
        };
        if *rank < module.cap && module.cost <= left {
            *rank += 1;
            left -= module.cost;
            again.push(Candidate { missing: missing(module, *rank), ..candidate });
        }
    }
    Ok(ranks)
}

/// Sorts as [`Candidate`]'s order says: by what is missing alone, and then those among whom that leaves it open. Integers are sorted
/// several times as fast as candidates. These are in the order of their modules.
fn sort(waiting: &mut Vec<Candidate>) {
    let by_missing = |(at, candidate): (usize, &Candidate)| u128::from(ordered(candidate.missing)) << 64 | at as u128;
    *waiting = in_order(waiting, by_missing);
    for equal in waiting.chunk_by_mut(|a, b| a.missing.total_cmp(&b.missing).is_eq()).filter(|equal| equal.len() > 1) {
        // The last of them comes first, and its place tells where it was.
        equal.reverse();
        let by_norm = |(at, candidate): (usize, &Candidate)| u128::from(ordered(candidate.norm)) << 64 | at as u128;
        let sorted = in_order(equal, by_norm);
        equal.copy_from_slice(&sorted);
    }
}

/// Candidates in the order of their keys, whose lower half is the candidate's place.
fn in_order(candidates: &[Candidate], key: impl Fn((usize, &Candidate)) -> u128) -> Vec<Candidate> {
    let mut keys: Vec<u128> = candidates.iter().enumerate().map(key).collect();
    keys.sort_unstable();
    keys.into_iter().filter_map(|key| candidates.get(key as u64 as usize).copied()).collect()
}

/// Targets beyond this are all the same: no rank comes near.
const FARTHEST: f64 = u32::MAX as f64;

fn whole_target(module: &RepairModule) -> i64 {
    // The clamp makes the conversion exact.
    module.target.floor().clamp(-FARTHEST, FARTHEST) as i64
}

fn rank_at(module: &RepairModule, target: i64) -> u32 {
    let rank = target.clamp(i64::from(module.floor), i64::from(module.cap));
    u32::try_from(rank).unwrap_or(module.floor)
}

fn missing(module: &RepairModule, rank: u32) -> f64 {
    module.target.clamp(-FARTHEST, FARTHEST) - f64::from(rank)
}

/// The largest shift of all targets that the budget bears. Giving single units in order of what is missing would pass
/// through exactly these states, one full round at a time; bisection takes the rounds at once.
fn highest_level(modules: &[RepairModule], targets: &[i64], allowed: u128) -> i64 {
    let fits = |level: i64| {
        let used = |(module, &target): (&RepairModule, &i64)| {
            u128::from(module.cost) * u128::from(rank_at(module, target + level))
        };
        modules.iter().zip(targets).map(used).sum::<u128>() <= allowed
    };
    // At the lowest level every rank is at its floor, which the caller has found to fit; at the highest every rank is at its cap.
    let (mut low, mut high) = (-2 * i64::from(u32::MAX), 2 * i64::from(u32::MAX));
    if fits(high) {
        return high;
    }
    // Targets that were scaled to the budget are within a round of it.
    for (below, above) in [(-1, 0), (0, 1), (-2, -1)] {
        if fits(below) && !fits(above) {
            return below;
        }
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn module(cost: u64, target: f64, norm: f64) -> RepairModule {
        RepairModule { cost, floor: 1, cap: 100, target, norm }
    }

    #[test]
    fn whole_targets_that_meet_the_budget_stay_as_they_are() {
        let modules = [module(3, 4.0, 0.0), module(5, 2.0, 9.0), module(7, 1.0, 1.0)];
        assert_eq!(repair(&modules, 12 + 10 + 7).unwrap(), [4, 2, 1]);
    }

    #[test]
    fn the_largest_remainder_gets_the_unit_and_norms_decide_ties() {
        let modules = [module(1, 2.2, 9.0), module(1, 2.5, 1.0), module(1, 2.5, 2.0), module(1, 2.8, 0.0)];
        assert_eq!(repair(&modules, 8).unwrap(), [2, 2, 2, 2]);
        assert_eq!(repair(&modules, 9).unwrap(), [2, 2, 2, 3]);
        assert_eq!(repair(&modules, 10).unwrap(), [2, 2, 3, 3]);
        assert_eq!(repair(&modules, 11).unwrap(), [2, 3, 3, 3]);
    }

    #[test]
    fn equal_remainders_and_norms_are_served_in_order() {
        let modules = [module(1, 2.5, 1.0), module(1, 2.5, 1.0)];
        assert_eq!(repair(&modules, 5).unwrap(), [3, 2]);
    }

    #[test]
    fn targets_over_the_budget_lose_single_units_smallest_remainder_and_norm_first() {
        let modules = [module(1, 4.0, 1.0), module(1, 4.0, 3.0), module(1, 4.0, 2.0)];
        assert_eq!(repair(&modules, 11).unwrap(), [3, 4, 4]);
        assert_eq!(repair(&modules, 10).unwrap(), [3, 4, 3]);
        assert_eq!(repair(&modules, 3).unwrap(), [1, 1, 1]);
    }

    #[test]
    fn a_module_whose_unit_does_not_fit_leaves_the_rest_to_cheaper_ones() {
        let modules = [module(10, 1.9, 1.0), module(3, 1.1, 1.0)];
        // 13 used at rank 1; 9 left: three cheap units, not one dear one.
        assert_eq!(repair(&modules, 22).unwrap(), [1, 4]);
    }

    #[test]
    fn caps_bind_and_a_budget_beyond_all_caps_fills_them() {
        let modules = [RepairModule { cap: 2, ..module(1, 50.0, 1.0) }, RepairModule { cap: 7, ..module(1, 1.0, 1.0) }];
        assert_eq!(repair(&modules, 6).unwrap(), [2, 4]);
        assert_eq!(repair(&modules, u64::MAX).unwrap(), [2, 7]);
    }

    #[test]
    fn a_budget_below_rank_one_everywhere_names_the_least_possible_one() {
        let error = repair(&[module(3, 1.0, 0.0), module(5, 1.0, 0.0)], 7).unwrap_err();
        assert_eq!(error, BudgetError::TooSmall { allowed: 7, least: 8 });
        assert!(error.to_string().contains("takes 8"), "{error}");
        assert_eq!(repair(&[module(3, 9.0, 0.0), module(5, 9.0, 0.0)], 8).unwrap(), [1, 1]);
    }

    #[test]
    fn targets_that_are_no_numbers_and_modules_without_room_are_refused() {
        assert_eq!(repair(&[module(1, f64::NAN, 0.0)], 9), Err(BudgetError::NotFinite { module: 0 }));
        assert_eq!(repair(&[module(1, 1.0, f64::INFINITY)], 9), Err(BudgetError::NotFinite { module: 0 }));
        assert_eq!(repair(&[module(1, 1.0, 0.0), module(0, 1.0, 0.0)], 9), Err(BudgetError::NoRoom { module: 1 }));
        let no_cap = RepairModule { cap: 0, ..module(1, 1.0, 0.0) };
        assert_eq!(repair(&[no_cap], 9), Err(BudgetError::NoRoom { module: 0 }));
    }

    #[test]
    fn a_module_that_may_be_dropped_is_where_its_target_is_low_and_never_where_it_may_not_be() {
        let droppable = |target| RepairModule { floor: 0, ..module(1, target, 0.0) };
        assert_eq!(repair(&[droppable(0.2), droppable(5.8)], 6).unwrap(), [0, 6]);
        assert_eq!(repair(&[module(1, 0.2, 0.0), droppable(5.8)], 6).unwrap(), [1, 5]);
        assert_eq!(repair(&[droppable(-2.0), droppable(-1.0)], 1).unwrap(), [0, 1]);
        // Dropped by hand, whatever is left.
        let dropped = RepairModule { cap: 0, ..droppable(0.0) };
        assert_eq!(repair(&[dropped, droppable(5.0)], 90).unwrap(), [0, 90]);
    }

    #[test]
    fn a_budget_of_less_than_one_unit_is_refused_even_where_all_may_be_dropped() {
        let droppable = RepairModule { floor: 0, ..module(7, 1.0, 0.0) };
        let error = repair(&[droppable, droppable], 6).unwrap_err();
        assert_eq!(error, BudgetError::NoUnit { allowed: 6, least: 7 });
        assert_eq!(repair(&[droppable, droppable], 7).unwrap(), [1, 0]);
    }

    #[test]
    fn no_modules_need_no_budget() {
        assert_eq!(repair(&[], 0).unwrap(), Vec::<u32>::new());
    }

    #[test]
    fn targets_of_any_size_are_repaired() {
        let modules = [module(1, 1e300, 0.0), module(1, -1e300, 0.0), module(1, 0.0, 0.0)];
        assert_eq!(repair(&modules, 20).unwrap(), [18, 1, 1]);
        assert_eq!(repair(&modules, 103).unwrap(), [100, 1, 2]);
    }

    #[cfg(not(target_family = "wasm"))]
    mod properties {
        use proptest::prelude::*;

        use super::*;

        fn modules() -> impl Strategy<Value = Vec<RepairModule>> {
            with_floors(Just(1).boxed())
        }

        fn with_floors(floor: BoxedStrategy<u32>) -> impl Strategy<Value = Vec<RepairModule>> {
            let module = (1_u64..40, floor, 1_u32..30, -5.0..40.0_f64, 0.0..1.0_f64)
                .prop_map(|(cost, floor, cap, target, norm)| RepairModule { cost, floor, cap, target, norm });
            proptest::collection::vec(module, 1..60)
        }

        fn least(modules: &[RepairModule]) -> u64 {
            modules.iter().map(|m| m.cost * u64::from(m.floor)).sum()
        }

        /// One unit at a time, without rounds taken at once: what [`repair`] must agree with.
        fn slow(modules: &[RepairModule], allowed: u64) -> Vec<u32> {
            let mut ranks = vec![1_u32; modules.len()];
            let mut left = allowed - least(modules);
            let mut out = vec![false; modules.len()];
            loop {
                let next = (0..modules.len())
                    .filter(|&i| !out[i] && ranks[i] < modules[i].cap)
                    .map(|index| Candidate {
                        missing: missing(&modules[index], ranks[index]),
                        norm: modules[index].norm,
                        index,
                    })
                    .max();
                let Some(Candidate { index, .. }) = next else { return ranks };
                if modules[index].cost <= left {
                    ranks[index] += 1;
                    left -= modules[index].cost;
                } else {
                    out[index] = true;
                }
            }
        }

        proptest! {
            #[test]
            fn ranks_keep_the_budget_and_no_unit_more_would_fit(modules in modules(), extra in 0_u64..20_000) {
                let allowed = least(&modules) + extra;
                let ranks = repair(&modules, allowed).unwrap();
                let used: u64 = modules.iter().zip(&ranks).map(|(m, &r)| m.cost * u64::from(r)).sum();
                prop_assert!(used <= allowed);
                for (module, &rank) in modules.iter().zip(&ranks) {
                    prop_assert!(rank >= 1 && rank <= module.cap);
                    prop_assert!(rank == module.cap || used + module.cost > allowed);
                }
            }

            #[test]
            fn the_budget_is_met_as_exactly_where_modules_may_be_dropped(
                modules in with_floors((0_u32..=1).boxed()), extra in 0_u64..20_000,
            ) {
                // One unit of the dearest always fits.
                let allowed = least(&modules) + 40 + extra;
                let ranks = repair(&modules, allowed).unwrap();
                let used: u64 = modules.iter().zip(&ranks).map(|(m, &r)| m.cost * u64::from(r)).sum();
                prop_assert!(used <= allowed && ranks.iter().any(|&rank| rank > 0));
                for (module, &rank) in modules.iter().zip(&ranks) {
                    prop_assert!(rank >= module.floor && rank <= module.cap);
                    prop_assert!(rank == module.cap || used + module.cost > allowed);
                }
            }

            #[test]
            fn rounds_taken_at_once_end_where_single_units_end_with_equal_costs(
                modules in modules(), extra in 0_u64..2_000,
            ) {
                // With equal costs nothing is passed over, so the order of single units is the whole rule.
                let modules: Vec<_> = modules.into_iter().map(|m| RepairModule { cost: 3, ..m }).collect();
                let allowed = least(&modules) + extra;
                prop_assert_eq!(repair(&modules, allowed).unwrap(), slow(&modules, allowed));
            }

            #[test]
            fn a_higher_target_never_gets_a_lower_rank_at_equal_cost_and_cap(modules in modules(), extra in 0_u64..5_000) {
                let modules: Vec<_> = modules
                    .into_iter()
                    .enumerate()
                    .map(|(i, m)| RepairModule { cost: 3 + 4 * (i as u64 % 2), cap: 20, ..m })
                    .collect();
                let ranks = repair(&modules, least(&modules) + extra).unwrap();
                for (a, &rank_a) in modules.iter().zip(&ranks) {
                    for (b, &rank_b) in modules.iter().zip(&ranks) {
                        prop_assert!(a.cost != b.cost || a.target >= b.target || rank_a <= rank_b);
                    }
                }
            }

            #[test]
            fn permuting_modules_permutes_ranks(
                (modules, order) in modules().prop_flat_map(|m| {
                    let order: Vec<usize> = (0..m.len()).collect();
                    (Just(m), Just(order).prop_shuffle())
                }),
                extra in 0_u64..20_000,
            ) {
                let allowed = least(&modules) + extra;
                let ranks = repair(&modules, allowed).unwrap();
                let permuted: Vec<_> = order.iter().map(|&i| modules[i]).collect();
                let expected: Vec<_> = order.iter().map(|&i| ranks[i]).collect();
                prop_assert_eq!(repair(&permuted, allowed).unwrap(), expected);
            }
        }
    }
}
