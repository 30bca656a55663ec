//! Planted bugs: switches that leave out one rule of the core each, so that the simulator can prove it would notice.
//!
//! Without the feature `sim` every switch is the constant `false` and costs nothing.

/// A rule of the core that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A clock follows what it hears.
    ClockMax,
    /// The seqs of an origin are taken without gaps.
    GapCheck,
    /// An op waits for everything in its `seen`.
    CausalDelivery,
    /// `seen` names what was held when the op was issued.
    SeenRecorded,
    /// An op that is held already is passed over.
    DuplicateSuppression,
    /// A late op goes to its place in its documents' order, not to the end.
    LateInsertion,
    /// A late op rolls its documents back to before it.
    Rollback,
    /// Documents that a later guarded op links to a changed one are replayed as well.
    DependentRollback,
    /// A batch is sorted before it is replayed.
    BatchSort,
    /// An op applies wholly or not at all.
    Atomicity,
    /// Checkpoints behind a late op are dropped.
    CheckpointDrop,
    /// A verdict is judged anew on replay.
    VerdictAnew,
    /// Of ops with one idempotency key only the first has an effect.
    KeyOnce,
    /// Equal times are ordered by origin.
    TieByOrigin,
    /// What a dropped frame carried is asked for again.
    Repair,
    /// What is heard on one link is passed on to the others.
    Forward,
    /// Nothing leaves a node before what it rests on is stored.
    StoreFirst,
    /// Heads are not announced before their ops are stored.
    DurableHeads,
    /// No time is announced that is not reserved in the journal.
    Ceiling,
    /// A node whose id has another past elsewhere gives it up.
    Rebirth,
    /// A node that has broken a promise, because its disk was an old copy, comes back as another.
    Promise,
    /// An announcement counts once the ops it speaks of are held.
    HeldFirst,
    /// What is final every member holds: the frontier is the least of all that others are complete up to.
    TwoRounds,
    /// A member of whom nothing was heard yet counts from the op on that added it.
    NewcomerCounts,
    /// Every remaining member answers an eviction before it is effective.
    AllFence,
    /// An eviction that is not forced needs a majority.
    Majority,
    /// An eviction that was effective once stays so, also after a restart and for newcomers.
    EvictedOnce,
    /// The ops of an evicted member are taken from members only. Not among `ALL`: it stands behind `Dispute`, which repairs what it
    /// prevents, so the simulator does not find it. The model in `tests/finality_model.rs` does.
    FencedSource,
    /// What only a node had that comes back as another is issued again.
    Reissue,
    /// So is what it held of others and the pool lacks.
    ReissueHeld,
    /// What a node issued since it came back from an old copy of its disk it knows as its own after another start, too.
    Resumption,
    /// A repeated key is answered with the op that the pool has under the id which its record names.
    PoolsReceipt,
    /// Only what is final is forgotten.
    ForgetFinal,
    /// The documents of a snapshot are what they were at its time.
    SnapshotAt,
    /// A snapshot counts once it is whole.
    WholeOnly,
    /// An edit of a text that is not there any more has no effect.
    EditHeld,
    /// Edits that are forgotten stay in the text.
    EditKept,
    /// The clients of a node that is not heard any more are gone.
    Absent,
    /// Who lacks what clients show says so, and is sent it again.
    Attendance,
    /// A node retires once another member holds all that it has issued.
    Shared,
    /// A node issues nothing after it has retired.
    LastWord,
    /// Of two empty pools that meet one gives way to the other.
    MergeEmpty,
    /// A pool in which somebody has written is given up for no other.
    KeepWritten,
    /// Of a name that leads back to the node itself, only that address is passed over.
    OwnAddress,
    /// Of two processes with one id one comes back as another.
    Copies,
    /// Members announce where they can be dialled now.
    Moves,
    /// Of two members with two histories of a third node one comes back as another.
    Dispute,
    /// That a member is complete counts for those who hold the same up to there. Not among `ALL`: it stands behind `Dispute`, which
    /// ends a link before such a word arrives. `tests/two_histories.rs` holds the rule.
    SameHistory,
    /// A member is evicted by force only where its successor knows that it was that member.
    Proof,
    /// A node that is left behind goes on where an operator evicts another by force.
    TakeOver,
    /// An eviction without force asks for a majority that is heard.
    HeardMajority,
    /// Heard means heard just now: a member that died within the time in which none is silent yet could not answer.
    HeardJustNow,
    /// A node retires only if the others that are heard are a majority without it.
    RetireHeard,
    /// A node retires once it has evicted the members that it was itself.
    Predecessors,
    /// A node that is left behind, or is being evicted, lets nobody in.
    LetsNobodyIn,
    /// A peer speaks under no id but the one that its key belongs to. Only a member that forges frames shows it.
    OwnKey,
    /// That a member was added is no promise of its own. Not among `ALL`, as `MembersWord`.
    OwnPromise,
    /// An announcement makes void what waits for more ops than it speaks of: another process said that. Not among `ALL`, as
    /// `MembersWord`.
    LaterProcess,
    /// A member gives up its id only on the word of a member. Not among `ALL`: 1,000 seeds do not find it. `tests/simulation.rs` has a
    /// seed of its own for it.
    MembersWord,
}

impl Rule {
    /// The rules that 1,000 seeds do not find, each with a test or a seed of its own.
    pub const RARE: [Rule; 5] =
        [Rule::FencedSource, Rule::SameHistory, Rule::MembersWord, Rule::OwnPromise, Rule::LaterProcess];

    /// All of them, in the order of the table in ARCHITECTURE.md.
    pub const ALL: [Rule; 54] = [
        Rule::ClockMax,
        Rule::GapCheck,
        Rule::CausalDelivery,
        Rule::SeenRecorded,
        Rule::DuplicateSuppression,
        Rule::LateInsertion,
        Rule::Rollback,
        Rule::DependentRollback,
        Rule::BatchSort,
        Rule::Atomicity,
        Rule::CheckpointDrop,
        Rule::VerdictAnew,
        Rule::KeyOnce,
        Rule::TieByOrigin,
        Rule::Repair,
        Rule::Forward,
        Rule::StoreFirst,
        Rule::DurableHeads,
        Rule::Ceiling,
        Rule::Rebirth,
        Rule::HeldFirst,
        Rule::TwoRounds,
        Rule::NewcomerCounts,
        Rule::AllFence,
        Rule::Majority,
        Rule::EvictedOnce,
        Rule::Reissue,
        Rule::ReissueHeld,
        Rule::Resumption,
        Rule::PoolsReceipt,
        Rule::ForgetFinal,
        Rule::SnapshotAt,
        Rule::WholeOnly,
        Rule::EditHeld,
        Rule::EditKept,
        Rule::Absent,
        Rule::Attendance,
        Rule::Shared,
        Rule::LastWord,
        Rule::MergeEmpty,
        Rule::KeepWritten,
        Rule::OwnAddress,
        Rule::Copies,
        Rule::Moves,
        Rule::Dispute,
        Rule::Proof,
        Rule::HeardMajority,
        Rule::HeardJustNow,
        Rule::RetireHeard,
        Rule::Predecessors,
        Rule::LetsNobodyIn,
        Rule::Promise,
        Rule::TakeOver,
        Rule::OwnKey,
    ];

    /// True if honest nodes never break the rule, so that a malicious member has to.
    pub fn needs_malice(self) -> bool {
        self == Rule::OwnKey
    }
}

/// Whether what members hold is not compared: it is left out by itself, and with the rules that it stands behind, for with it what
/// these are for would not be seen.
pub(crate) fn comparison_left_out() -> bool {
    [Rule::SameHistory, Rule::HeldFirst, Rule::AllFence, Rule::FencedSource].into_iter().any(left_out)
}

#[cfg(feature = "sim")]
mod switch {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static LEFT_OUT: Cell<Option<Rule>> = const { Cell::new(None) };
        static EARLY_MAX: Cell<usize> = const { Cell::new(usize::MAX) };
        static SPAN_MAX: Cell<u64> = const { Cell::new(u64::MAX) };
        static SLICE_MAX: Cell<usize> = const { Cell::new(usize::MAX) };
        static STEP_MAX: Cell<u64> = const { Cell::new(u64::MAX) };
    }

    /// Snapshots are made on this thread in slices of at most so many documents, so that much comes between two of them.
    pub fn squeeze_slice(most: usize) {
        SLICE_MAX.set(most);
    }

    pub(crate) fn slice_squeezed(most: usize) -> usize {
        most.min(SLICE_MAX.get())
    }

    /// Idempotency keys are remembered on this thread for at most so long, so that a simulation sees them end.
    pub fn squeeze_span(most: u64) {
        SPAN_MAX.set(most);
    }

    pub(crate) fn span_squeezed(span: u64) -> u64 {
        span.min(SPAN_MAX.get())
    }

    /// Limits the number of Lamport times that a node on this thread reserves at once, so that a short run uses up many reservations.
    pub fn squeeze_step(most: u64) {
        STEP_MAX.set(most);
    }

    pub(crate) fn step_squeezed(step: u64) -> u64 {
        step.min(STEP_MAX.get())
    }

    /// The early buffers made on this thread from here on take at most so many ops, so that a simulation can fill them.
    pub fn squeeze_early(most: usize) {
        EARLY_MAX.set(most);
    }

    pub(crate) fn early_squeezed(most: usize) -> usize {
        most.min(EARLY_MAX.get())
    }

    /// Leaves `rule` out on this thread, or none.
    pub fn leave_out(rule: Option<Rule>) {
        LEFT_OUT.set(rule);
    }

    pub(crate) fn left_out(rule: Rule) -> bool {
        LEFT_OUT.get() == Some(rule)
    }
}

#[cfg(not(feature = "sim"))]
mod switch {
    pub(crate) const fn left_out(_: super::Rule) -> bool {
        false
    }

    pub(crate) const fn early_squeezed(most: usize) -> usize {
        most
    }

    pub(crate) const fn slice_squeezed(most: usize) -> usize {
        most
    }

    pub(crate) const fn span_squeezed(span: u64) -> u64 {
        span
    }

    pub(crate) const fn step_squeezed(step: u64) -> u64 {
        step
    }
}

pub(crate) use switch::{early_squeezed, left_out, slice_squeezed, span_squeezed, step_squeezed};
#[cfg(feature = "sim")]
pub use switch::{leave_out, squeeze_early, squeeze_slice, squeeze_span, squeeze_step};
