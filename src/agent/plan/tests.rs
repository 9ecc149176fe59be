mod network;

use super::*;

const NONE: Duration = Duration::ZERO;

fn replicas(ids: &[(&str, Option<&str>)]) -> Vec<Replica> {
    let replica =
        |&(id, address): &(&str, Option<&str>)| Replica { id: id.to_owned(), address: address.map(str::to_owned) };
    ids.iter().map(replica).collect()
}

fn edge(slot: u32) -> Dial {
    Dial { slot, lane: Lane::Edge }
}

fn at(slot: u32, id: &str, address: &str) -> Dial {
    Dial { slot, lane: Lane::Replica { id: id.to_owned(), address: address.to_owned() } }
}

/// A plan with so many slots whose first one has met `r1`, and that session.
fn connected(slots: u32) -> (Plan, Instant, u64) {
    let (mut plan, now) = (Plan::new(slots), Instant::now());
    assert_eq!(plan.start_due(now), [edge(0)]);
    let serial = plan.registered(&edge(0), "r1", now);
    (plan, now, serial)
}

#[test]
fn one_balancer_is_dialled_until_all_replicas_are_met() {
    let (mut plan, now) = (Plan::new(1), Instant::now());
    assert_eq!(plan.start_due(now), [edge(0)]);
    assert_eq!(plan.start_due(now), [], "one dial at a time");
    assert_eq!(plan.next_due(now), None);
    let r1 = plan.registered(&edge(0), "r1", now);
    assert_eq!(plan.next_due(now), None, "no other replica is known");
    plan.learned(r1, replicas(&[("r1", None), ("r2", None), ("r3", None)]), 0.0, now);
    assert_eq!(plan.start_due(now), [edge(0)]);
    let delay = plan.failed(&edge(0), Failure::Met, NONE, 1.0, now);
    assert_eq!(plan.start_due(now), []);
    let now = now + delay;
    assert_eq!(plan.next_due(now), Some(now));
    assert_eq!(plan.start_due(now), [edge(0)]);
    plan.registered(&edge(0), "r2", now);
    assert_eq!(plan.start_due(now), [edge(0)]);
    plan.registered(&edge(0), "r3", now);
    assert_eq!(plan.next_due(now), None);
    assert_eq!(plan.met(0).collect::<Vec<_>>(), ["r1", "r2", "r3"]);
}

#[test]
fn replicas_with_addresses_are_dialled_there_and_side_by_side() {
    let (mut plan, now, r1) = connected(1);
    plan.learned(r1, replicas(&[("r1", Some("a:1")), ("r2", Some("b:1")), ("r3", Some("c:1"))]), 0.0, now);
    assert_eq!(plan.start_due(now), [at(0, "r2", "b:1"), at(0, "r3", "c:1")]);
    plan.failed(&at(0, "r2", "b:1"), Failure::Transient, NONE, 0.5, now);
    let r3 = plan.registered(&at(0, "r3", "c:1"), "r3", now);
    assert_eq!(plan.next_due(now), Some(now + Duration::from_millis(25)));
    // r2 leaves the set: it is not dialled any more. r3 is lost: its own address is dialled again.
    plan.learned(r1, replicas(&[("r1", Some("a:1")), ("r3", Some("c:1"))]), 0.0, now);
    assert_eq!(plan.next_due(now), None);
    let delay = plan.lost(r3, 1.0, now).expect("dialled again");
    assert_eq!(plan.start_due(now + delay), [at(0, "r3", "c:1")]);
}

#[test]
fn each_slot_holds_its_own_sessions() {
    let (mut plan, now) = (Plan::new(2), Instant::now());
    assert_eq!(plan.start_due(now), [edge(0)], "one is enough to find the edge");
    let r1 = plan.registered(&edge(0), "r1", now);
    assert_eq!(plan.start_due(now), [], "who is to be met comes with the welcome");
    plan.learned(r1, replicas(&[("r1", Some("a:1")), ("r2", Some("b:1"))]), 0.0, now);
    assert_eq!(plan.start_due(now), [at(0, "r2", "b:1"), at(1, "r1", "a:1"), at(1, "r2", "b:1")]);
    plan.registered(&at(1, "r1", "a:1"), "r1", now);
    assert_eq!((plan.met(0).count(), plan.met(1).count()), (1, 1));
    // The slot that is lost is dialled again; the other one is left alone.
    let delay = plan.lost(r1, 1.0, now).expect("dialled again");
    assert_eq!(plan.start_due(now + delay), [at(0, "r1", "a:1")]);
    assert_eq!(plan.met(1).collect::<Vec<_>>(), ["r1"]);
}

#[test]
fn an_edge_that_is_away_is_dialled_by_one_slot() {
    let (mut plan, mut now) = (Plan::new(3), Instant::now());
    plan.start_due(now);
    let r1 = plan.registered(&edge(0), "r1", now);
    plan.learned(r1, replicas(&[("r1", Some("a:1"))]), 0.0, now);
    let others = plan.start_due(now);
    assert_eq!(others, [at(1, "r1", "a:1"), at(2, "r1", "a:1")]);
    let others: Vec<_> = others.iter().map(|dial| plan.registered(dial, "r1", now)).collect();
    assert_eq!(plan.next_due(now), None);

    for serial in others {
        assert!(plan.lost(serial, 1.0, now).is_some(), "while the first is there, its address is dialled");
    }
    assert!(plan.lost(r1, 1.0, now).is_some());
    for _ in 0..10 {
        now = plan.next_due(now).expect("dialled again and again").max(now);
        assert_eq!(plan.start_due(now), [edge(0)]);
        plan.failed(&edge(0), Failure::Transient, NONE, 1.0, now);
    }
    now += Duration::from_secs(1);
    assert_eq!(plan.start_due(now), [edge(0)]);
    let r2 = plan.registered(&edge(0), "r2", now);
    assert_eq!(plan.start_due(now), [], "it is not known yet who the edge is now");
    plan.learned(r2, replicas(&[("r2", None)]), 0.0, now);
    assert_eq!(plan.start_due(now), [edge(1), edge(2)]);
}

#[test]
fn where_an_address_cannot_be_reached_the_balancer_leads_there() {
    let (mut plan, mut now) = (Plan::new(1), Instant::now());
    let r2 = at(0, "r2", "10.0.0.2:7443");
    plan.start_due(now);
    let r1 = plan.registered(&edge(0), "r1", now);
    plan.learned(r1, replicas(&[("r1", None), ("r2", Some("10.0.0.2:7443"))]), 0.0, now);
    assert_eq!(plan.start_due(now), std::slice::from_ref(&r2));
    // It is refused twice: the edge's own address is dialled beside it.
    now += plan.failed(&r2, Failure::Transient, NONE, 1.0, now);
    assert_eq!(plan.start_due(now), std::slice::from_ref(&r2));
    now += plan.failed(&r2, Failure::Lasting, NONE, 1.0, now);
    assert_eq!(plan.start_due(now), [edge(0), r2.clone()]);
    plan.registered(&edge(0), "r2", now);
    assert_eq!(plan.give_up(), std::slice::from_ref(&r2), "it is met, and must not be met twice");
    assert_eq!(plan.give_up(), []);
    assert_eq!(plan.next_due(now), None);
}

#[test]
fn an_address_that_says_nothing_is_doubted_soon() {
    let (mut plan, now, r1) = connected(1);
    plan.learned(r1, replicas(&[("r1", None), ("r2", Some("10.0.0.2:7443"))]), 0.0, now);
    assert_eq!(plan.start_due(now), [at(0, "r2", "10.0.0.2:7443")]);
    assert_eq!(plan.next_due(now), Some(now + Plan::SLOW));
    let now = now + Plan::SLOW;
    assert!(plan.next_due(now).is_some_and(|at| at <= now));
    assert_eq!(plan.start_due(now), [edge(0)]);
    assert_eq!(plan.next_due(now), None);
    // It leaves the set: the dial is good for nothing.
    plan.learned(r1, replicas(&[("r1", None)]), 0.0, now);
    assert_eq!(plan.give_up(), [at(0, "r2", "10.0.0.2:7443")]);
}

#[test]
fn after_the_last_session_is_lost_the_edge_itself_is_dialled() {
    let (mut plan, now, r1) = connected(1);
    plan.learned(r1, replicas(&[("r1", Some("a:1"))]), 0.0, now);
    assert_eq!(plan.lost(r1, 1.0, now), Some(Duration::from_millis(50)));
    assert_eq!(plan.start_due(now), []);
    assert_eq!(plan.start_due(now + Duration::from_millis(100)), [edge(0)]);
}

#[test]
fn the_end_of_a_session_that_was_replaced_changes_nothing() {
    let (mut plan, now, old) = connected(1);
    let new = plan.registered(&edge(0), "r1", now);
    assert_eq!(plan.lost(old, 1.0, now), None);
    assert_eq!(plan.next_due(now), None);
    assert!(plan.lost(new, 1.0, now).is_some());
}

#[test]
fn a_replica_that_left_is_not_dialled_when_its_session_ends() {
    let (mut plan, now, r1) = connected(1);
    let r2 = plan.registered(&edge(0), "r2", now);
    plan.learned(r2, replicas(&[("r2", None)]), 0.0, now);
    assert_eq!(plan.lost(r1, 1.0, now), None);
    assert_eq!(plan.next_due(now), None);
}

#[test]
fn a_replica_that_stops_is_not_dialled_before_its_session_ends() {
    let (mut plan, now, r1) = connected(1);
    let r2 = plan.registered(&edge(0), "r2", now);
    plan.learned(r1, replicas(&[("r1", None), ("r2", Some("b:1"))]), 0.0, now);
    assert_eq!(plan.leaving(r2, now).as_deref(), Some("r2"));
    assert_eq!(plan.next_due(now), None, "it would refuse");
    let delay = plan.lost(r2, 1.0, now).expect("it may be back, until it is gone from the set");
    assert_eq!(delay, Plan::RESTART);
    assert_eq!(plan.start_due(now + delay), [at(0, "r2", "b:1")]);
}

#[test]
fn when_the_only_replica_stops_another_is_dialled_at_once() {
    let (mut plan, now, r1) = connected(1);
    plan.learned(r1, replicas(&[("r1", None)]), 0.0, now);
    assert_eq!(plan.next_due(now), None);
    assert_eq!(plan.leaving(r1, now).as_deref(), Some("r1"));
    assert_eq!(plan.met(0).count(), 0, "the one that starts in its place may have its id");
    assert_eq!(plan.start_due(now), [edge(0)]);
    let r2 = plan.registered(&edge(0), "r2", now);
    plan.learned(r2, replicas(&[("r2", None)]), 0.0, now);
    assert_eq!(plan.lost(r1, 1.0, now), None, "it was replaced before it ended");
    assert_eq!(plan.next_due(now), None);
}

#[test]
fn a_replica_that_stops_and_comes_back_is_met_again() {
    let (mut plan, start) = (Plan::new(1), Instant::now());
    plan.start_due(start);
    let old = plan.registered(&edge(0), "r1", start);
    let mut now = start + Duration::from_mins(1);
    plan.leaving(old, now);
    for _ in 0..30 {
        assert_eq!(plan.start_due(now), [edge(0)]);
        now += plan.failed(&edge(0), Failure::Transient, NONE, 1.0, now);
    }
    assert_eq!(plan.lost(old, 1.0, now), Some(Duration::from_millis(50)), "a fresh beginning");
    now += Duration::from_millis(100);
    assert_eq!(plan.start_due(now), [edge(0)]);
    let new = plan.registered(&edge(0), "r1", now);
    assert_eq!(plan.leaving(old, now), None, "word of the old session comes late");
    assert_eq!(plan.lost(old, 1.0, now), None);
    assert_eq!(plan.met(0).collect::<Vec<_>>(), ["r1"]);
    assert!(plan.lost(new, 1.0, now).is_some());
}

#[test]
fn what_the_edge_asks_to_wait_is_waited() {
    let (mut plan, now) = (Plan::new(1), Instant::now());
    plan.start_due(now);
    let asked = Duration::from_secs(7);
    assert_eq!(plan.failed(&edge(0), Failure::Transient, asked, 0.5, now), asked);
}

#[test]
fn who_was_there_before_us_is_looked_for_at_once() {
    let (mut plan, now, r1) = connected(1);
    plan.learned(r1, replicas(&[("r1", None), ("r2", None)]), 0.0, now);
    assert_eq!(plan.next_due(now), Some(now));
}

#[test]
fn a_new_replica_is_looked_for_once_the_balancer_may_lead_there() {
    for slots in [1, 2] {
        let (mut plan, now, r1) = connected(slots);
        plan.learned(r1, replicas(&[("r1", None)]), 0.0, now);
        for slot in 1..slots {
            plan.start_due(now);
            plan.registered(&edge(slot), "r1", now);
        }
        assert_eq!(plan.next_due(now), None);
        plan.learned(r1, replicas(&[("r1", None), ("r2", None)]), 1.0, now);
        let balanced = now + Replicas::BALANCED.mul_f64(1.5);
        assert_eq!((plan.start_due(now), plan.next_due(now)), (vec![], Some(balanced)));
        // Others that come meanwhile have their own time; nobody's is put off.
        let later = now + Duration::from_millis(800);
        plan.learned(r1, replicas(&[("r1", None), ("r2", None), ("r3", None)]), 1.0, later);
        assert_eq!((plan.start_due(later), plan.next_due(later)), (vec![], Some(balanced)));
        assert_eq!(plan.start_due(balanced), (0..slots).map(edge).collect::<Vec<_>>());
    }
}

#[test]
fn a_dial_for_another_one_does_not_make_a_new_replica_due() {
    let (mut plan, now, r1) = connected(1);
    plan.learned(r1, replicas(&[("r1", None), ("r2", None)]), 0.0, now);
    assert_eq!(plan.start_due(now), [edge(0)], "for r2");
    plan.learned(r1, replicas(&[("r1", None), ("r2", None), ("r3", None)]), 0.0, now);
    plan.registered(&edge(0), "r2", now);
    assert_eq!((plan.start_due(now), plan.next_due(now)), (vec![], Some(now + Replicas::BALANCED)));
}

#[test]
fn although_the_balancer_led_nowhere_before_a_new_replica_is_looked_for_soon() {
    let (mut plan, now, r1) = connected(1);
    plan.learned(r1, replicas(&[("r1", None), ("r2", None)]), 0.0, now);
    for _ in 0..50 {
        plan.failed(&edge(0), Failure::Met, NONE, 1.0, now);
    }
    assert_eq!(plan.next_due(now), Some(now + Duration::from_secs(10)));
    plan.learned(r1, replicas(&[("r1", None), ("r2", None), ("r3", None)]), 0.0, now);
    assert_eq!(plan.next_due(now), Some(now + Duration::from_millis(50)), "for r2, to which it may lead now");
}

#[test]
fn when_the_only_replica_stops_its_successor_is_not_waited_for() {
    let (one, two) = ([("r1", None)], [("r1", None), ("r2", None)]);
    for stops_first in [true, false] {
        let (mut plan, now, r1) = connected(1);
        plan.learned(r1, replicas(&one), 0.0, now);
        if stops_first {
            plan.leaving(r1, now);
            plan.learned(r1, replicas(&two), 0.0, now);
        } else {
            plan.learned(r1, replicas(&two), 0.0, now);
            plan.leaving(r1, now);
        }
        assert_eq!(plan.start_due(now), [edge(0)]);
    }
}

#[test]
fn a_replica_that_knows_of_itself_only_hides_no_other_one() {
    let (mut plan, now, r1) = connected(1);
    let all = [("r1", Some("a:1")), ("r2", Some("b:1")), ("r3", Some("c:1"))];
    plan.learned(r1, replicas(&all), 0.0, now);
    assert_eq!(plan.start_due(now), [at(0, "r2", "b:1"), at(0, "r3", "c:1")]);
    let r2 = plan.registered(&at(0, "r2", "b:1"), "r2", now);
    plan.learned(r2, replicas(&[("r2", None)]), 0.0, now);
    assert_eq!((plan.give_up(), plan.start_due(now)), (vec![], vec![]), "r1 knows of r3, which is being dialled");
    // Once it hears of them all, that is no news; and when both know that r3 left, it is dialled no more.
    plan.learned(r2, replicas(&all), 0.0, now);
    plan.learned(r1, replicas(&all[..2]), 0.0, now);
    assert_eq!(plan.give_up(), []);
    plan.learned(r2, replicas(&all[..2]), 0.0, now);
    assert_eq!(plan.give_up(), [at(0, "r3", "c:1")]);
}

#[test]
fn the_word_of_a_replica_that_stops_or_went_counts_no_longer() {
    for stops in [true, false] {
        let (mut plan, now, r1) = connected(1);
        let r2 = plan.registered(&edge(0), "r2", now);
        plan.learned(r1, replicas(&[("r1", None), ("r2", None), ("r3", Some("c:1"))]), 0.0, now);
        plan.learned(r2, replicas(&[("r2", None)]), 0.0, now);
        assert_eq!(plan.start_due(now), [at(0, "r3", "c:1")], "r1 knows of it");
        if stops {
            plan.leaving(r1, now);
            plan.learned(r1, replicas(&[("r1", None), ("r3", Some("c:1"))]), 0.0, now);
        } else {
            plan.lost(r1, 0.5, now);
        }
        assert_eq!(plan.give_up(), [at(0, "r3", "c:1")]);
    }
}

#[test]
fn of_two_addresses_the_one_that_was_said_last_is_dialled() {
    let (mut plan, now, r1) = connected(1);
    let r2 = plan.registered(&edge(0), "r2", now);
    plan.learned(r1, replicas(&[("r1", None), ("r2", None), ("r3", Some("c:1"))]), 0.0, now);
    plan.learned(r2, replicas(&[("r2", None), ("r3", Some("c:2"))]), 0.0, now);
    assert_eq!(plan.start_due(now), [at(0, "r3", "c:2")]);
}

#[test]
fn the_balancer_is_not_asked_too_early_for_one_whose_address_is_in_doubt() {
    let (mut plan, mut now, r1) = connected(1);
    let r2 = at(0, "r2", "10.0.0.2:7443");
    plan.learned(r1, replicas(&[("r1", None)]), 0.0, now);
    plan.learned(r1, replicas(&[("r1", None), ("r2", Some("10.0.0.2:7443"))]), 0.0, now);
    let balanced = now + Replicas::BALANCED;
    for _ in 0..=Plan::DOUBT {
        assert_eq!(plan.start_due(now), std::slice::from_ref(&r2), "its own address is there at once");
        now += plan.failed(&r2, Failure::Transient, NONE, 0.0, now);
    }
    plan.start_due(now);
    assert_eq!(plan.next_due(now), Some(balanced));
    assert_eq!(plan.start_due(balanced), [edge(0)]);
}

#[test]
fn one_that_is_met_early_and_lost_again_is_waited_for_as_long_as_others() {
    let (mut plan, now, r1) = connected(1);
    plan.learned(r1, replicas(&[("r1", None), ("r2", None)]), 0.0, now);
    assert_eq!(plan.start_due(now), [edge(0)], "for r2");
    plan.learned(r1, replicas(&[("r1", None), ("r2", None), ("r3", None)]), 0.0, now);
    let r3 = plan.registered(&edge(0), "r3", now);
    assert_eq!(plan.start_due(now), [edge(0)], "for r2 still");
    plan.registered(&edge(0), "r2", now);
    assert_eq!(plan.lost(r3, 0.5, now), Some(Replicas::BALANCED));
    assert_eq!(plan.next_due(now), Some(now + Replicas::BALANCED));
}

#[test]
fn without_a_session_that_takes_links_other_slots_wait_for_the_first_one() {
    let (mut plan, now, r1) = connected(2);
    plan.learned(r1, replicas(&[("r1", None), ("r2", None)]), 0.0, now);
    assert_eq!(plan.start_due(now), [edge(0), edge(1)]);
    plan.learned(r1, replicas(&[("r1", None), ("r2", None), ("r3", None)]), 0.0, now);
    let r3 = plan.registered(&edge(1), "r3", now);
    plan.leaving(r1, now);
    assert_eq!(plan.lost(r3, 0.5, now), None, "new as r3 is, the first slot has to be connected before");
}
