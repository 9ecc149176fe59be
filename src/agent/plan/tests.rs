mod network;

use super::*;

const NONE: Duration = Duration::ZERO;

fn replicas(ids: &[(&str, Option<&str>)]) -> Vec<Replica> {
    let replica =
        |&(id, address): &(&str, Option<&str>)| Replica { id: id.to_owned(), address: address.map(str::to_owned) };
    ids.iter().map(replica).collect()
}

const EDGE: Lane = Lane::Edge;

fn at(id: &str, address: &str) -> Lane {
    Lane::Replica { id: id.to_owned(), address: address.to_owned() }
}

/// The slots in which a replica is met.
fn met(plan: &Plan, replica: &str) -> Vec<u32> {
    plan.met().remove(replica).into_iter().flatten().collect()
}

/// A plan with so many slots that has met `r1` in the first one, and that session.
fn connected(slots: u32) -> (Plan, Instant, u64) {
    let (mut plan, now) = (Plan::new(slots), Instant::now());
    assert_eq!(plan.start_due(now), [EDGE]);
    let serial = plan.registered(&EDGE, "r1", 0, now);
    (plan, now, serial)
}

/// A plan with two slots that has met `r1` and `r2` in both, and the sessions with the latter, which has an address.
fn whole_mesh_of_two() -> (Plan, Instant, [u64; 2]) {
    let (mut plan, now, r1) = connected(2);
    plan.registered(&EDGE, "r1", 1, now);
    let sessions = [0, 1].map(|slot| plan.registered(&EDGE, "r2", slot, now));
    plan.learned(r1, replicas(&[("r1", None), ("r2", Some("b:1"))]), 0.0, now);
    (plan, now, sessions)
}

#[test]
fn one_balancer_is_dialled_until_all_replicas_are_met() {
    let (mut plan, now) = (Plan::new(1), Instant::now());
    assert_eq!(plan.start_due(now), [EDGE]);
    assert_eq!(plan.start_due(now), [], "one dial at a time");
    assert_eq!(plan.next_due(now), None);
    let r1 = plan.registered(&EDGE, "r1", 0, now);
    assert_eq!(plan.next_due(now), None, "no other replica is known");
    plan.learned(r1, replicas(&[("r1", None), ("r2", None), ("r3", None)]), 0.0, now);
    assert_eq!(plan.start_due(now), [EDGE]);
    let delay = plan.failed(&EDGE, Failure::Met, NONE, 1.0, now);
    assert_eq!(plan.start_due(now), []);
    let now = now + delay;
    assert_eq!(plan.next_due(now), Some(now));
    assert_eq!(plan.start_due(now), [EDGE]);
    plan.registered(&EDGE, "r2", 0, now);
    assert_eq!(plan.start_due(now), [EDGE]);
    plan.registered(&EDGE, "r3", 0, now);
    assert_eq!(plan.next_due(now), None);
    assert_eq!(plan.met().into_keys().collect::<Vec<_>>(), ["r1", "r2", "r3"]);
}

#[test]
fn replicas_with_addresses_are_dialled_there_and_side_by_side() {
    let (mut plan, now, r1) = connected(1);
    plan.learned(r1, replicas(&[("r1", Some("a:1")), ("r2", Some("b:1")), ("r3", Some("c:1"))]), 0.0, now);
    assert_eq!(plan.start_due(now), [at("r2", "b:1"), at("r3", "c:1")]);
    plan.failed(&at("r2", "b:1"), Failure::Transient, NONE, 0.5, now);
    let r3 = plan.registered(&at("r3", "c:1"), "r3", 0, now);
    assert_eq!(plan.next_due(now), Some(now + Duration::from_millis(25)));
    // r2 leaves the set: it is not dialled any more. r3 is lost: its own address is dialled again.
    plan.learned(r1, replicas(&[("r1", Some("a:1")), ("r3", Some("c:1"))]), 0.0, now);
    assert_eq!(plan.next_due(now), None);
    let delay = plan.lost(r3, 1.0, now).expect("dialled again");
    assert_eq!(plan.start_due(now + delay), [at("r3", "c:1")]);
}

#[test]
fn each_slot_holds_its_own_sessions() {
    let (mut plan, now) = (Plan::new(2), Instant::now());
    let (to_r1, to_r2) = (at("r1", "a:1"), at("r2", "b:1"));
    assert_eq!(plan.start_due(now), [EDGE], "one is enough to find the edge");
    let r1 = plan.registered(&EDGE, "r1", 0, now);
    assert_eq!(plan.start_due(now), [], "who is to be met comes with the welcome");
    plan.learned(r1, replicas(&[("r1", Some("a:1")), ("r2", Some("b:1"))]), 0.0, now);
    assert_eq!(plan.start_due(now), [to_r1.clone(), to_r2.clone()]);
    plan.registered(&to_r1, "r1", 1, now);
    plan.registered(&to_r2, "r2", 0, now);
    assert_eq!((met(&plan, "r1"), met(&plan, "r2")), (vec![0, 1], vec![0]));
    assert_eq!(plan.start_due(now), std::slice::from_ref(&to_r2), "the second one follows the first at once");
    plan.registered(&to_r2, "r2", 1, now);
    assert_eq!(plan.next_due(now), None);
    // The slot that is lost is filled again; the other one is left alone.
    let delay = plan.lost(r1, 1.0, now).expect("dialled again");
    assert_eq!((met(&plan, "r1"), met(&plan, "r2")), (vec![1], vec![0, 1]));
    assert_eq!(plan.start_due(now + delay), std::slice::from_ref(&to_r1));
    plan.registered(&to_r1, "r1", 0, now + delay);
    assert_eq!(plan.next_due(now), None);
}

#[test]
fn any_slot_of_any_replica_is_filled_by_one_dial_at_a_time() {
    let (mut plan, now, r1) = connected(2);
    plan.learned(r1, replicas(&[("r1", None), ("r2", None)]), 0.0, now);
    for (replica, slot) in [("r2", 0), ("r1", 1), ("r2", 1)] {
        assert_eq!(plan.start_due(now), [EDGE]);
        assert_eq!((plan.start_due(now), plan.next_due(now)), (vec![], None));
        plan.registered(&EDGE, replica, slot, now);
    }
    assert_eq!(plan.next_due(now), None);
}

#[test]
fn an_edge_that_is_away_is_dialled_once_at_a_time() {
    let (mut plan, mut now) = (Plan::new(3), Instant::now());
    plan.start_due(now);
    let r1 = plan.registered(&EDGE, "r1", 0, now);
    plan.learned(r1, replicas(&[("r1", Some("a:1"))]), 0.0, now);
    let mut others = Vec::new();
    for slot in 1..3 {
        assert_eq!(plan.start_due(now), [at("r1", "a:1")]);
        others.push(plan.registered(&at("r1", "a:1"), "r1", slot, now));
    }
    assert_eq!(plan.next_due(now), None);

    for serial in others {
        assert!(plan.lost(serial, 1.0, now).is_some(), "while the first is there, its address is dialled");
    }
    assert!(plan.lost(r1, 1.0, now).is_some());
    for _ in 0..10 {
        now = plan.next_due(now).expect("dialled again and again").max(now);
        assert_eq!(plan.start_due(now), [EDGE]);
        plan.failed(&EDGE, Failure::Transient, NONE, 1.0, now);
    }
    now += Duration::from_secs(1);
    assert_eq!(plan.start_due(now), [EDGE]);
    let r2 = plan.registered(&EDGE, "r2", 0, now);
    assert_eq!(plan.start_due(now), [], "it is not known yet who the edge is now");
    plan.learned(r2, replicas(&[("r2", None)]), 0.0, now);
    assert_eq!(plan.start_due(now), [EDGE]);
}

#[test]
fn sessions_that_are_lost_together_are_looked_for_as_soon_as_one() {
    let (mut plan, now, r1) = connected(8);
    plan.learned(r1, replicas(&[("r1", None)]), 0.0, now);
    let mut all = vec![r1];
    for slot in 1..8 {
        assert_eq!(plan.start_due(now), [EDGE]);
        all.push(plan.registered(&EDGE, "r1", slot, now));
    }
    for serial in all {
        assert_eq!(plan.lost(serial, 1.0, now), Some(Duration::from_millis(50)));
    }
    assert_eq!(plan.next_due(now), Some(now + Duration::from_millis(50)));
}

#[test]
fn an_edge_that_ends_each_session_while_the_next_is_dialled_is_no_storm() {
    let (mut plan, start, mut held) = connected(2);
    let (mut now, mut slot) = (start, 0);
    for _ in 0..100 {
        plan.learned(held, replicas(&[("r1", None)]), 0.0, now);
        now = plan.next_due(now).expect("it lacks a slot").max(now);
        assert_eq!(plan.start_due(now), [EDGE]);
        plan.lost(held, 0.0, now);
        slot = 1 - slot;
        held = plan.registered(&EDGE, "r1", slot, now);
    }
    assert!(now - start >= Duration::from_secs(20), "{:?}", now - start);
}

#[test]
fn where_an_address_cannot_be_reached_the_balancer_leads_there() {
    let (mut plan, mut now) = (Plan::new(1), Instant::now());
    let r2 = at("r2", "10.0.0.2:7443");
    plan.start_due(now);
    let r1 = plan.registered(&EDGE, "r1", 0, now);
    plan.learned(r1, replicas(&[("r1", None), ("r2", Some("10.0.0.2:7443"))]), 0.0, now);
    assert_eq!(plan.start_due(now), std::slice::from_ref(&r2));
    // It is refused twice: the edge's own address is dialled beside it.
    now += plan.failed(&r2, Failure::Transient, NONE, 1.0, now);
    assert_eq!(plan.start_due(now), std::slice::from_ref(&r2));
    now += plan.failed(&r2, Failure::Lasting, NONE, 1.0, now);
    assert_eq!(plan.start_due(now), [EDGE, r2.clone()]);
    plan.registered(&EDGE, "r2", 0, now);
    assert_eq!(plan.give_up(now), std::slice::from_ref(&r2), "it is met, and must not be met twice");
    assert_eq!(plan.give_up(now), []);
    assert_eq!(plan.next_due(now), None);
}

#[test]
fn a_dial_that_could_be_given_a_slot_twice_is_given_up_and_begun_again() {
    let (mut plan, now, r1) = connected(2);
    plan.learned(r1, replicas(&[("r1", None), ("r2", Some("b:1")), ("r3", Some("c:1"))]), 0.0, now);
    let (to_r2, to_r3) = (at("r2", "b:1"), at("r3", "c:1"));
    assert_eq!(plan.start_due(now), [EDGE, to_r2.clone(), to_r3.clone()], "the first for r1's second slot");
    plan.registered(&to_r2, "r2", 0, now);
    assert_eq!(
        plan.give_up(now),
        [EDGE],
        "it could lead to r2 too, which would not know that its first slot is filled"
    );
    assert_eq!(plan.start_due(now), [EDGE, to_r2.clone()]);
    plan.registered(&EDGE, "r3", 0, now);
    assert_eq!(plan.give_up(now), std::slice::from_ref(&to_r3), "nor would r3; to r2 nothing has changed");
    assert_eq!(plan.start_due(now), [EDGE, to_r3]);
    assert_eq!(plan.give_up(now), []);
}

#[test]
fn an_address_that_says_nothing_stays_in_doubt_for_the_other_slots() {
    let (mut plan, now, r1) = connected(2);
    let to_r2 = at("r2", "10.0.0.2:7443");
    plan.registered(&EDGE, "r1", 1, now);
    plan.learned(r1, replicas(&[("r1", None), ("r2", Some("10.0.0.2:7443"))]), 0.0, now);
    assert_eq!(plan.start_due(now), std::slice::from_ref(&to_r2));
    let now = now + Plan::SLOW;
    assert_eq!(plan.start_due(now), [EDGE]);
    plan.registered(&EDGE, "r2", 0, now);
    assert_eq!(plan.give_up(now), std::slice::from_ref(&to_r2));
    assert_eq!(plan.start_due(now), [EDGE, to_r2], "the balancer is asked at once");
}

#[test]
fn an_address_that_says_nothing_is_doubted_soon() {
    let (mut plan, now, r1) = connected(1);
    plan.learned(r1, replicas(&[("r1", None), ("r2", Some("10.0.0.2:7443"))]), 0.0, now);
    assert_eq!(plan.start_due(now), [at("r2", "10.0.0.2:7443")]);
    assert_eq!(plan.next_due(now), Some(now + Plan::SLOW));
    let now = now + Plan::SLOW;
    assert!(plan.next_due(now).is_some_and(|at| at <= now));
    assert_eq!(plan.start_due(now), [EDGE]);
    assert_eq!(plan.next_due(now), None);
    // It leaves the set: the dial is good for nothing.
    plan.learned(r1, replicas(&[("r1", None)]), 0.0, now);
    assert_eq!(plan.give_up(now), [at("r2", "10.0.0.2:7443")]);
}

#[test]
fn an_address_at_which_somebody_is_may_take_its_time() {
    let (mut plan, now, r1) = connected(1);
    let to_r2 = at("r2", "10.0.0.2:7443");
    plan.learned(r1, replicas(&[("r1", None), ("r2", Some("10.0.0.2:7443"))]), 0.0, now);
    assert_eq!(plan.start_due(now), std::slice::from_ref(&to_r2));
    plan.reached(&to_r2);
    assert_eq!(plan.next_due(now), None);
    let mut now = now + 3 * Plan::SLOW;
    assert_eq!(plan.start_due(now), [], "it starts, and answers once it has read what there is");
    // Where no answer comes, it is soon in doubt like any other.
    now += plan.failed(&to_r2, Failure::Transient, NONE, 1.0, now);
    assert_eq!(plan.start_due(now), std::slice::from_ref(&to_r2));
    plan.reached(&to_r2);
    now += Plan::SLOW;
    assert_eq!(plan.start_due(now), [EDGE]);
}

#[test]
fn after_the_last_session_is_lost_the_edge_itself_is_dialled() {
    let (mut plan, now, r1) = connected(1);
    plan.learned(r1, replicas(&[("r1", Some("a:1"))]), 0.0, now);
    assert_eq!(plan.lost(r1, 1.0, now), Some(Duration::from_millis(50)));
    assert_eq!(plan.start_due(now), []);
    assert_eq!(plan.start_due(now + Duration::from_millis(100)), [EDGE]);
}

#[test]
fn the_end_of_a_session_that_was_replaced_changes_nothing() {
    let (mut plan, now, old) = connected(1);
    let new = plan.registered(&EDGE, "r1", 0, now);
    assert_eq!(plan.lost(old, 1.0, now), None);
    assert_eq!(plan.next_due(now), None);
    assert!(plan.lost(new, 1.0, now).is_some());
}

#[test]
fn a_replica_that_left_is_not_dialled_when_its_session_ends() {
    let (mut plan, now, r1) = connected(1);
    let r2 = plan.registered(&EDGE, "r2", 0, now);
    plan.learned(r2, replicas(&[("r2", None)]), 0.0, now);
    assert_eq!(plan.lost(r1, 1.0, now), None);
    assert_eq!(plan.next_due(now), None);
}

#[test]
fn a_replica_that_stops_is_not_dialled_before_its_session_ends_nor_soon_after() {
    for address in [None, Some("b:1")] {
        let (mut plan, now, r1) = connected(1);
        let r2 = plan.registered(&EDGE, "r2", 0, now);
        plan.learned(r1, replicas(&[("r1", None), ("r2", address)]), 0.0, now);
        assert_eq!(plan.leaving(r2, now).as_deref(), Some("r2"));
        assert_eq!(plan.next_due(now), None, "it would refuse");
        assert_eq!(
            plan.lost(r2, 1.0, now),
            Some(Plan::RESTART.mul_f64(1.5)),
            "it may be back, until it is gone from the set"
        );
        let back = now + Plan::RESTART.mul_f64(1.5);
        assert_eq!((plan.start_due(now), plan.next_due(now)), (vec![], Some(back)));
        // Others are looked for meanwhile.
        plan.learned(r1, replicas(&[("r1", None), ("r2", address), ("r3", None)]), 0.0, now);
        let balanced = now + Replicas::BALANCED;
        assert_eq!(plan.next_due(now), Some(balanced));
        assert_eq!(plan.start_due(balanced), [EDGE]);
        plan.registered(&EDGE, "r3", 0, balanced);
        assert_eq!((plan.start_due(balanced), plan.next_due(balanced)), (vec![], Some(back)));
        let way = address.map_or(EDGE, |address| at("r2", address));
        assert_eq!(plan.start_due(back), std::slice::from_ref(&way));
    }
}

#[test]
fn a_replica_that_stopped_and_was_met_again_is_looked_for_at_once() {
    let (mut plan, now, r1) = connected(2);
    let r2 = plan.registered(&EDGE, "r2", 0, now);
    plan.registered(&EDGE, "r1", 1, now);
    plan.learned(r1, replicas(&[("r1", None), ("r2", Some("b:1")), ("r3", None)]), 0.0, now);
    plan.leaving(r2, now);
    plan.lost(r2, 0.0, now);
    assert_eq!(plan.start_due(now), [EDGE], "for r3");
    plan.registered(&EDGE, "r2", 0, now);
    assert_eq!(plan.start_due(now), [EDGE, at("r2", "b:1")], "for its other slot");
}

#[test]
fn who_is_there_already_under_the_id_of_one_that_stopped_is_looked_for_at_once() {
    let (mut plan, now, old) = whole_mesh_of_two();
    for serial in old {
        plan.leaving(serial, now);
    }
    plan.registered(&EDGE, "r2", 0, now);
    assert!(plan.lost(old[1], 1.0, now).is_some_and(|delay| delay < Duration::from_secs(1)));
    // So is one that comes back at another address.
    let (mut plan, now, r1) = connected(1);
    let r2 = plan.registered(&EDGE, "r2", 0, now);
    plan.learned(r1, replicas(&[("r1", None), ("r2", Some("b:1"))]), 0.0, now);
    plan.leaving(r2, now);
    plan.lost(r2, 1.0, now);
    assert_eq!(plan.start_due(now), []);
    plan.learned(r1, replicas(&[("r1", None), ("r2", Some("b:2"))]), 0.0, now);
    assert_eq!(plan.start_due(now), [at("r2", "b:2")]);
}

#[test]
fn a_replica_that_stops_rests_from_its_last_session_on_whoever_else_is_there() {
    let (mut plan, start, old) = whole_mesh_of_two();
    for serial in old {
        plan.leaving(serial, start);
    }
    plan.lost(old[0], 0.0, start);
    let now = start + Plan::RESTART;
    assert_eq!((plan.start_due(now), plan.next_due(now)), (vec![], None), "the other one drains still");
    plan.lost(old[1], 0.0, now);
    assert_eq!((plan.start_due(now), plan.next_due(now)), (vec![], Some(now + Plan::RESTART)));
    // The word of its stop comes on one connection before the other.
    let (mut plan, now, old) = whole_mesh_of_two();
    for serial in old {
        plan.leaving(serial, now);
        plan.lost(serial, 0.0, now);
        assert_eq!((plan.start_due(now), plan.next_due(now)), (vec![], Some(now + Plan::RESTART)));
    }
    // Of two that stop together, the second one drains when a third is met.
    let (mut plan, now, r1) = connected(1);
    let r2 = plan.registered(&EDGE, "r2", 0, now);
    let all = [("r1", None), ("r2", Some("b:1")), ("r3", None)];
    plan.learned(r1, replicas(&all[..2]), 0.0, now);
    for serial in [r1, r2] {
        plan.leaving(serial, now);
    }
    plan.lost(r2, 0.0, now);
    let now = now + Duration::from_millis(100);
    assert_eq!(plan.start_due(now), [EDGE]);
    let r3 = plan.registered(&EDGE, "r3", 0, now);
    plan.learned(r3, replicas(&all), 0.0, now);
    assert_eq!(plan.start_due(now), []);
}

#[test]
fn when_the_only_replica_stops_another_is_dialled_at_once() {
    let (mut plan, now, r1) = connected(1);
    plan.learned(r1, replicas(&[("r1", None)]), 0.0, now);
    assert_eq!(plan.next_due(now), None);
    assert_eq!(plan.leaving(r1, now).as_deref(), Some("r1"));
    assert_eq!(plan.met().len(), 0, "the one that starts in its place may have its id");
    assert_eq!(plan.start_due(now), [EDGE]);
    let r2 = plan.registered(&EDGE, "r2", 0, now);
    plan.learned(r2, replicas(&[("r2", None)]), 0.0, now);
    assert_eq!(plan.lost(r1, 1.0, now), None, "it was replaced before it ended");
    assert_eq!(plan.next_due(now), None);
}

#[test]
fn a_replica_that_stops_and_comes_back_is_met_again() {
    let (mut plan, start) = (Plan::new(1), Instant::now());
    plan.start_due(start);
    let old = plan.registered(&EDGE, "r1", 0, start);
    let mut now = start + Duration::from_mins(1);
    plan.leaving(old, now);
    for _ in 0..30 {
        assert_eq!(plan.start_due(now), [EDGE]);
        now += plan.failed(&EDGE, Failure::Transient, NONE, 1.0, now);
    }
    assert_eq!(plan.lost(old, 1.0, now), Some(Duration::from_millis(50)), "a fresh beginning");
    now += Duration::from_millis(100);
    assert_eq!(plan.start_due(now), [EDGE]);
    let new = plan.registered(&EDGE, "r1", 0, now);
    assert_eq!(plan.leaving(old, now), None, "word of the old session comes late");
    assert_eq!(plan.lost(old, 1.0, now), None);
    assert_eq!(plan.met().into_keys().collect::<Vec<_>>(), ["r1"]);
    assert!(plan.lost(new, 1.0, now).is_some());
}

#[test]
fn what_the_edge_asks_to_wait_is_waited() {
    let (mut plan, now) = (Plan::new(1), Instant::now());
    plan.start_due(now);
    let asked = Duration::from_secs(7);
    assert_eq!(plan.failed(&EDGE, Failure::Transient, asked, 0.5, now), asked);
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
            plan.registered(&EDGE, "r1", slot, now);
        }
        assert_eq!(plan.next_due(now), None);
        plan.learned(r1, replicas(&[("r1", None), ("r2", None)]), 1.0, now);
        let balanced = now + Replicas::BALANCED.mul_f64(1.5);
        assert_eq!((plan.start_due(now), plan.next_due(now)), (vec![], Some(balanced)));
        // Others that come meanwhile have their own time; nobody's is put off.
        let later = now + Duration::from_millis(800);
        plan.learned(r1, replicas(&[("r1", None), ("r2", None), ("r3", None)]), 1.0, later);
        assert_eq!((plan.start_due(later), plan.next_due(later)), (vec![], Some(balanced)));
        assert_eq!(plan.start_due(balanced), [EDGE]);
    }
}

#[test]
fn a_dial_for_another_one_does_not_make_a_new_replica_due() {
    let (mut plan, now, r1) = connected(1);
    plan.learned(r1, replicas(&[("r1", None), ("r2", None)]), 0.0, now);
    assert_eq!(plan.start_due(now), [EDGE], "for r2");
    plan.learned(r1, replicas(&[("r1", None), ("r2", None), ("r3", None)]), 0.0, now);
    plan.registered(&EDGE, "r2", 0, now);
    assert_eq!((plan.start_due(now), plan.next_due(now)), (vec![], Some(now + Replicas::BALANCED)));
}

#[test]
fn although_the_balancer_led_nowhere_before_a_new_replica_is_looked_for_soon() {
    let (mut plan, now, r1) = connected(1);
    plan.learned(r1, replicas(&[("r1", None), ("r2", None)]), 0.0, now);
    for _ in 0..50 {
        plan.failed(&EDGE, Failure::Met, NONE, 1.0, now);
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
        assert_eq!(plan.start_due(now), [EDGE]);
    }
}

#[test]
fn a_replica_that_knows_of_itself_only_hides_no_other_one() {
    let (mut plan, now, r1) = connected(1);
    let all = [("r1", Some("a:1")), ("r2", Some("b:1")), ("r3", Some("c:1"))];
    plan.learned(r1, replicas(&all), 0.0, now);
    assert_eq!(plan.start_due(now), [at("r2", "b:1"), at("r3", "c:1")]);
    let r2 = plan.registered(&at("r2", "b:1"), "r2", 0, now);
    plan.learned(r2, replicas(&[("r2", None)]), 0.0, now);
    assert_eq!((plan.give_up(now), plan.start_due(now)), (vec![], vec![]), "r1 knows of r3, which is being dialled");
    // Once it hears of them all, that is no news; and when both know that r3 left, it is dialled no more.
    plan.learned(r2, replicas(&all), 0.0, now);
    plan.learned(r1, replicas(&all[..2]), 0.0, now);
    assert_eq!(plan.give_up(now), []);
    plan.learned(r2, replicas(&all[..2]), 0.0, now);
    assert_eq!(plan.give_up(now), [at("r3", "c:1")]);
}

#[test]
fn the_word_of_a_replica_that_stops_or_went_counts_no_longer() {
    for stops in [true, false] {
        let (mut plan, now, r1) = connected(1);
        let r2 = plan.registered(&EDGE, "r2", 0, now);
        plan.learned(r1, replicas(&[("r1", None), ("r2", None), ("r3", Some("c:1"))]), 0.0, now);
        plan.learned(r2, replicas(&[("r2", None)]), 0.0, now);
        assert_eq!(plan.start_due(now), [at("r3", "c:1")], "r1 knows of it");
        if stops {
            plan.leaving(r1, now);
            plan.learned(r1, replicas(&[("r1", None), ("r3", Some("c:1"))]), 0.0, now);
        } else {
            plan.lost(r1, 0.5, now);
        }
        assert_eq!(plan.give_up(now), [at("r3", "c:1")]);
    }
}

#[test]
fn of_two_addresses_the_one_that_was_said_last_is_dialled() {
    let (mut plan, now, r1) = connected(1);
    let r2 = plan.registered(&EDGE, "r2", 0, now);
    plan.learned(r1, replicas(&[("r1", None), ("r2", None), ("r3", Some("c:1"))]), 0.0, now);
    plan.learned(r2, replicas(&[("r2", None), ("r3", Some("c:2"))]), 0.0, now);
    assert_eq!(plan.start_due(now), [at("r3", "c:2")]);
}

#[test]
fn the_balancer_is_not_asked_too_early_for_one_whose_address_is_in_doubt() {
    let (mut plan, mut now, r1) = connected(1);
    let r2 = at("r2", "10.0.0.2:7443");
    plan.learned(r1, replicas(&[("r1", None)]), 0.0, now);
    plan.learned(r1, replicas(&[("r1", None), ("r2", Some("10.0.0.2:7443"))]), 0.0, now);
    let balanced = now + Replicas::BALANCED;
    for _ in 0..=Plan::DOUBT {
        assert_eq!(plan.start_due(now), std::slice::from_ref(&r2), "its own address is there at once");
        now += plan.failed(&r2, Failure::Transient, NONE, 0.0, now);
    }
    plan.start_due(now);
    assert_eq!(plan.next_due(now), Some(balanced));
    assert_eq!(plan.start_due(balanced), [EDGE]);
}

#[test]
fn one_that_is_met_early_and_lost_again_is_waited_for_as_long_as_others() {
    let (mut plan, now, r1) = connected(1);
    plan.learned(r1, replicas(&[("r1", None), ("r2", None)]), 0.0, now);
    assert_eq!(plan.start_due(now), [EDGE], "for r2");
    plan.learned(r1, replicas(&[("r1", None), ("r2", None), ("r3", None)]), 0.0, now);
    let r3 = plan.registered(&EDGE, "r3", 0, now);
    assert_eq!(plan.start_due(now), [EDGE], "for r2 still");
    plan.registered(&EDGE, "r2", 0, now);
    assert_eq!(plan.lost(r3, 0.5, now), Some(Replicas::BALANCED));
    assert_eq!(plan.next_due(now), Some(now + Replicas::BALANCED));
}

#[test]
fn without_a_session_that_takes_links_nobody_is_waited_for() {
    let (mut plan, now, r1) = connected(2);
    plan.learned(r1, replicas(&[("r1", None), ("r2", None)]), 0.0, now);
    assert_eq!(plan.start_due(now), [EDGE]);
    plan.learned(r1, replicas(&[("r1", None), ("r2", None), ("r3", None)]), 0.0, now);
    let r3 = plan.registered(&EDGE, "r3", 0, now);
    plan.leaving(r1, now);
    assert_eq!(plan.lost(r3, 1.0, now), Some(Duration::from_millis(50)), "new as r3 is");
    assert_eq!(plan.start_due(now + Duration::from_millis(50)), [EDGE]);
}
