use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn agent(name: &str) -> ObjectName {
    ObjectName::new("web", name)
}

/// One agent, and targets of these weights and priorities.
fn places(targets: &[(u32, u32)]) -> Places {
    let target = |(index, &(weight, priority)): (usize, &(u32, u32))| Member {
        item: format!("10.0.0.{index}:80").parse().expect("a target"),
        weight,
        priority,
    };
    Places::new(&[agent("lab").into()], &targets.iter().enumerate().map(target).collect::<Vec<_>>())
}

fn even(count: usize) -> Places {
    places(&vec![(1, 0); count])
}

/// The index of the place in its first tier, where those of `down` are not usable.
fn pick(places: &Places, draw: Draw, down: &[usize]) -> Option<usize> {
    pick_loaded(places, draw, &[0; 8], down)
}

fn pick_loaded(places: &Places, draw: Draw, loads: &[u32], down: &[usize]) -> Option<usize> {
    let usable = |index| (!down.contains(&index)).then_some(index);
    let (index, found) = places.pick(&places.tiers()[0], draw, |index| loads[index], usable)?;
    assert_eq!(index, found);
    Some(index)
}

fn counts(picks: impl Iterator<Item = usize>) -> HashMap<usize, i64> {
    let mut counts = HashMap::new();
    for pick in picks {
        *counts.entry(pick).or_default() += 1;
    }
    counts
}

/// Each of these places has its share of `picks`, give or take `tolerance`.
fn assert_shares(
    places: &Places,
    down: &[usize],
    picks: &HashMap<usize, i64>,
    tolerance: i64,
) -> Result<(), TestCaseError> {
    let up = || places.all().iter().enumerate().filter(|(index, _)| !down.contains(index));
    let (all, total): (i64, i64) = (picks.values().sum(), up().map(|(_, place)| i64::from(place.weight)).sum());
    for (index, place) in up() {
        let (is, due) = (picks.get(&index).copied().unwrap_or(0), all * i64::from(place.weight) / total);
        prop_assert!((is - due).abs() <= tolerance, "{index}: {is} instead of {due} of {all}");
    }
    prop_assert!(down.iter().all(|index| !picks.contains_key(index)));
    Ok(())
}

#[test]
fn each_agent_gets_to_each_target() {
    let targets = ["a:1", "b:1"].map(|target| Member::from(target.parse::<Target>().expect("a target")));
    let places = Places::new(&[agent("one").into(), agent("two").into(), agent("three").into()], &targets);
    let turn = |turn| {
        let place = &places.all()[pick(&places, Draw::Turn(turn), &[]).expect("a place")];
        (place.agent.name.to_string(), place.target.to_string())
    };
    let round: Vec<_> = (0..6).map(turn).collect();
    assert_eq!(
        round.iter().map(|(agent, _)| agent.as_str()).collect::<Vec<_>>(),
        ["one", "two", "three", "one", "two", "three"]
    );
    assert_eq!(round.iter().collect::<std::collections::HashSet<_>>().len(), 6);
    assert_eq!(turn(6), round[0]);
}

#[test]
fn a_tier_is_that_of_the_agent_and_then_of_the_target() {
    let member = |name, priority| Member { item: agent(name), weight: 1, priority };
    let target = |text: &str, weight, priority| Member { item: text.parse().expect("a target"), weight, priority };
    let agents = [member("spare", 7), member("first", 0), member("equal", 0)];
    let places = Places::new(&agents, &[target("backup:1", 1, 1), target("main:1", 1, 0), target("drained:1", 0, 0)]);
    let shown: Vec<_> = places.all().iter().map(|place| format!("{} {}", place.agent.name, place.target)).collect();
    assert_eq!(
        shown,
        ["first main:1", "equal main:1", "first backup:1", "equal backup:1", "spare main:1", "spare backup:1"]
    );
    assert_eq!(places.tiers().iter().map(|tier| tier.count).collect::<Vec<_>>(), [2, 2, 1, 1]);
    let third = places.pick(&places.tiers()[2], Draw::Turn(5), |_| 0, Some).expect("a place");
    assert_eq!(third.0, 4);
}

#[test]
fn without_weight_there_is_no_place() {
    assert!(places(&[(0, 0), (0, 1)]).tiers().is_empty());
}

#[test]
fn a_heavy_place_does_not_get_its_requests_in_a_row() {
    let places = places(&[(3, 0), (1, 0)]);
    let turns: Vec<_> = (0..400).map(|turn| pick(&places, Draw::Turn(turn), &[])).collect();
    assert!(turns.windows(7).all(|window| window.contains(&Some(1))), "never six times the other alone");
    assert!(turns.windows(2).all(|pair| pair != [Some(1), Some(1)]), "never twice itself");
}

#[test]
fn of_two_the_one_with_less_to_do_for_its_weight_is_taken() {
    let loads = [4, 2];
    for random in (0..1000).map(mix) {
        let draw = Draw::Least(random);
        assert_eq!(pick_loaded(&even(2), draw, &loads, &[]), Some(1));
        assert_eq!(pick_loaded(&places(&[(4, 0), (1, 0)]), draw, &loads, &[]), Some(0));
        assert_eq!(pick_loaded(&even(2), draw, &loads, &[1]), Some(0));
        assert_eq!(pick(&even(1), draw, &[]), Some(0));
        assert_eq!(pick(&even(3), draw, &[0, 1, 2]), None);
    }
}

#[test]
fn visitors_of_one_network_stay_together() {
    let key = |text: &str| match Draw::by_address(text.parse().expect("an address")) {
        Draw::Hash(key) => key,
        other => panic!("{other:?}"),
    };
    assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
    assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
    assert_ne!(key("10.0.0.2"), key("10.0.0.1"));
}

fn weights() -> impl Strategy<Value = Vec<(u32, u32)>> {
    prop::collection::vec((1_u32..=20, Just(0)), 1..8)
}

proptest! {
    #[test]
    fn turns_of_equals_are_exactly_even(count in 1_usize..20, begin in 0_usize..1_000_000) {
        let places = even(count);
        let picks = counts((begin..begin + count * 3).filter_map(|turn| pick(&places, Draw::Turn(turn), &[])));
        prop_assert_eq!(picks.len(), count);
        prop_assert!(picks.values().all(|picks| *picks == 3));
    }

    #[test]
    fn turns_go_by_weight_at_any_time(targets in weights(), begin in 0_usize..1_000_000) {
        let places = places(&targets);
        let picks = counts((begin..begin + 1000).filter_map(|turn| pick(&places, Draw::Turn(turn), &[])));
        assert_shares(&places, &[], &picks, 10)?;
    }

    #[test]
    fn the_turns_of_one_that_is_down_are_shared_by_weight(targets in weights(), down in 0_usize..8) {
        let places = places(&targets);
        let down = [down % targets.len()];
        prop_assume!(targets.len() > 1);
        let picks = counts((0..4000).filter_map(|turn| pick(&places, Draw::Turn(turn), &down)));
        prop_assert_eq!(picks.values().sum::<i64>(), 4000);
        assert_shares(&places, &down, &picks, 120)?;
    }

    #[test]
    fn chance_goes_by_weight(targets in weights(), seed: u64) {
        let places = places(&targets);
        let draw = |n: u64| Draw::Random(mix(seed.wrapping_add(n)));
        let picks = counts((0..4000).filter_map(|n| pick(&places, draw(n), &[])));
        // Five standard deviations of a coin.
        assert_shares(&places, &[], &picks, 160)?;
    }

    #[test]
    fn least_requests_uses_all_that_are_idle(count in 1_usize..8, seed: u64) {
        let places = even(count);
        let draw = |n: u64| Draw::Least(mix(seed.wrapping_add(n)));
        let picks = counts((0..4000).filter_map(|n| pick(&places, draw(n), &[])));
        assert_shares(&places, &[], &picks, 160)?;
    }

    #[test]
    fn visitors_are_shared_by_weight(targets in weights(), seed: u64) {
        let places = places(&targets);
        let picks = counts((0..4000).filter_map(|n| pick(&places, Draw::Hash(seed.wrapping_add(n)), &[])));
        assert_shares(&places, &[], &picks, 200)?;
    }

    #[test]
    fn only_the_visitors_of_a_place_that_goes_move(targets in weights(), gone in 0_usize..8, key: u64) {
        prop_assume!(targets.len() > 1);
        let (before, gone) = (places(&targets), gone % targets.len());
        let mut left = targets.clone();
        left[gone].0 = 0;
        let after = places(&left);
        let draw = Draw::Hash(key);
        let target = |places: &Places, index: Option<usize>| places.all()[index.expect("a place")].target.clone();
        let was = target(&before, pick(&before, draw, &[]));
        let is = target(&after, pick(&after, draw, &[]));
        prop_assert!(was == is || was == before.all()[gone].target);
        // Whether it is gone or down is the same.
        prop_assert_eq!(is, target(&before, pick(&before, draw, &[gone])));
    }
}
