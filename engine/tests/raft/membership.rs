//! What holds for any sequence of membership changes.

use std::collections::BTreeSet;

use coracle_engine::NodeId;
use coracle_engine::raft::membership::{
    Change, ChangeError, Configuration, Reconfiguration, Transition,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn change() -> impl Strategy<Value = Change> {
    (0_u64..12, 0..3).prop_map(|(node, kind)| match kind {
        0 => Change::AddVoter(NodeId(node)),
        1 => Change::AddLearner(NodeId(node)),
        _ => Change::Remove(NodeId(node)),
    })
}

fn reconfiguration() -> impl Strategy<Value = Reconfiguration> {
    let transition = prop_oneof![
        Just(Transition::Auto),
        Just(Transition::Joint),
        Just(Transition::JointUntilLeft)
    ];
    prop_oneof![
        1 => Just(Reconfiguration::Leave),
        3 => (vec(change(), 0..6), transition)
            .prop_map(|(changes, transition)| Reconfiguration::Change { changes, transition }),
    ]
}

fn ids(nodes: impl Iterator<Item = NodeId>) -> BTreeSet<u64> {
    nodes.map(|node| node.0).collect()
}

/// Whether no two disjoint sets of nodes can decide, one under each configuration: tried with every way to
/// split the voters in two.
fn quorums_overlap(a: &Configuration, b: &Configuration) -> bool {
    let all: Vec<u64> = ids(a.voters().iter().chain(b.voters().iter())).into_iter().collect();
    (0_u32..1 << all.len()).all(|mask| {
        let side = |node: NodeId| {
            let place = all.iter().position(|id| *id == node.0).unwrap();
            mask & (1 << place) != 0
        };
        !(a.has_quorum(side) && b.has_quorum(|node| !side(node)))
    })
}

/// What the changes mean, said in the plainest way: one role per node, the last word counts.
fn roles_after(before: &Configuration, changes: &[Change]) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let (mut voters, mut learners) = (ids(before.incoming().iter()), ids(before.learners().iter()));
    for change in changes {
        let (Change::AddVoter(node) | Change::AddLearner(node) | Change::Remove(node)) = change;
        voters.remove(&node.0);
        learners.remove(&node.0);
        match change {
            Change::AddVoter(NodeId(id)) if *id != 0 => _ = voters.insert(*id),
            Change::AddLearner(NodeId(id)) if *id != 0 => _ = learners.insert(*id),
            _ => {}
        }
    }
    (voters, learners)
}

fn check(configuration: &Configuration) {
    let (incoming, outgoing) = (configuration.incoming(), configuration.outgoing());
    for node in configuration.learners().iter() {
        assert!(!configuration.is_voter(node), "{node} votes and learns: {configuration}");
    }
    for node in configuration.learners_next().iter() {
        let waits = outgoing.contains(node) && !incoming.contains(node);
        assert!(waits, "{node} waits for nothing: {configuration}");
    }
    assert_eq!(configuration.is_joint(), !outgoing.is_empty());
    if !configuration.is_joint() {
        assert!(configuration.learners_next().is_empty() && !configuration.auto_leave());
    }
    let members = configuration.members();
    assert!(members.iter().all(|node| configuration.is_member(node)));
    assert!(configuration.voters().iter().all(|node| members.contains(node)));
    let again = Configuration::from_parts(configuration.clone().into_parts());
    assert_eq!(again.as_ref(), Ok(configuration));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_changes_keeps_the_rules(entries in vec(reconfiguration(), 1..12)) {
        let mut now = Configuration::of_voters([NodeId(1)]).unwrap();
        for entry in &entries {
            let Ok(after) = now.after(entry) else { continue };
            check(&after);
            // Whoever could decide before must be asked by whoever decides after.
            prop_assert!(quorums_overlap(&now, &after), "{now}  ->  {after}");
            if now.is_joint() {
                prop_assert_eq!(after.incoming(), now.incoming(), "leaving leaves the incoming");
                let learners = now.learners().iter().chain(now.learners_next().iter());
                prop_assert_eq!(ids(after.learners().iter()), ids(learners));
            }
            now = after;
        }
    }

    #[test]
    fn changes_mean_what_they_say(
        setup in vec(change(), 0..8),
        changes in vec(change(), 0..8),
        auto_leave: bool,
    ) {
        let one = Configuration::of_voters([NodeId(1)]).unwrap();
        let before = one.enter_joint(&setup, false).and_then(|joint| joint.leave_joint());
        let before = before.unwrap_or(one);
        let (voters, learners) = roles_after(&before, &changes);
        match before.enter_joint(&changes, auto_leave) {
            Ok(joint) => {
                prop_assert_eq!(joint.outgoing(), before.incoming());
                prop_assert_eq!(joint.auto_leave(), auto_leave);
                let left = joint.leave_joint().unwrap();
                prop_assert_eq!(ids(left.incoming().iter()), voters);
                prop_assert_eq!(ids(left.learners().iter()), learners);
            }
            Err(error) => prop_assert!(match error {
                ChangeError::NoVoters => voters.is_empty(),
                ChangeError::TooManyVoters { voters: found } => found == voters.len(),
                ChangeError::TooManyLearners { learners: found } => found == learners.len(),
                _ => false,
            }, "{} {:?}", error, changes),
        }
    }

    /// etcd's own quick test: one by one, or all at once and left, comes to the same.
    #[test]
    fn simple_changes_one_by_one_equal_a_joint_one(
        setup in vec(change(), 0..8),
        changes in vec(change(), 1..8),
    ) {
        let one = Configuration::of_voters([NodeId(1)]).unwrap();
        let before = one.enter_joint(&setup, false).and_then(|joint| joint.leave_joint());
        let before = before.unwrap_or(one);
        let stepwise = changes.iter().try_fold(before.clone(), |now, change| now.simple(&[*change]));
        if let Ok(stepwise) = stepwise {
            let joint = before.enter_joint(&changes, true).unwrap();
            prop_assert_eq!(joint.leave_joint().unwrap(), stepwise);
        }
    }

    #[test]
    fn a_refused_simple_change_would_break_the_overlap_or_the_rules(changes in vec(change(), 1..6)) {
        let before = Configuration::of_voters((1..=3).map(NodeId)).unwrap();
        let (voters, _) = roles_after(&before, &changes);
        let changed = voters.symmetric_difference(&ids(before.incoming().iter())).count();
        match before.simple(&changes) {
            Ok(after) => prop_assert!(changed <= 1 && quorums_overlap(&before, &after)),
            Err(ChangeError::NeedsJoint { changed: found }) => {
                prop_assert!(changed > 1 && changed == found);
            }
            Err(error) => prop_assert_eq!((error, voters.len()), (ChangeError::NoVoters, 0)),
        }
    }
}
