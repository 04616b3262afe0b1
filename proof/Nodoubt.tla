------------------------------ MODULE Nodoubt ------------------------------
(* The `home` plan: presumed abort, with the decision in a row of one of the databases, tombstones, and purge.

   The twin of `nodoubt prove enumerate`. That one runs the production engine; this one is the protocol alone, as rules about
   databases, one owner, and anybody who settles. Settlers have no state here: what they may do depends on what was decided,
   and on nothing that they remember. tests/prove/test_twin.py holds that both reach the same states.

   Assumed: a session's packet is carried out at most once and not after its session has ended; sessions may end at any
   moment; a tombstone is purged only when the session that could insert its key has ended; where a decision was purged, home
   sees by its clock that whoever asks for it looked too long ago, and takes no tombstone. *)

CONSTANTS
    Participants,  \* the branches other than home's
    Copies         \* whether packets of recovery may arrive late, or twice

VARIABLES
    row,      \* what home's table holds: "none", "committed", "complete" or "aborted"
    decided,  \* what it held first, for ever: "none", "committed" or "aborted"
    home,     \* the session of home's branch: "open", "late" (its decision is on its way) or "over"
    part,     \* each participant's branch
    pc,       \* where the owner stands, or what its caller was told
    vote      \* while it prepares: what each participant answered

vars == <<row, decided, home, part, pc, vote>>

Standing == {"open", "late", "prepared", "committed", "cleared", "gone"}
Working == {"preparing", "deciding", "probing", "committing", "aborting"}
Told == {"is committed", "is aborted", "is unknown"}

TypeOK ==
    /\ row \in {"none", "committed", "complete", "aborted"}
    /\ decided \in {"none", "committed", "aborted"}
    /\ home \in {"open", "late", "over"}
    /\ part \in [Participants -> Standing]
    /\ pc \in Working \cup Told \cup {"gone"}
    /\ vote \in [Participants -> {"-", "asked", "yes", "refused", "no"}]

Init ==
    /\ row = "none" /\ decided = "none" /\ home = "open" /\ pc = "preparing"
    /\ part = [p \in Participants |-> "open"]
    /\ vote = [p \in Participants |-> "asked"]

Write(value) == row' = value /\ decided' = IF decided = "none" THEN value ELSE decided
Home == <<row, decided, home>>
Silent == [p \in Participants |-> "-"]

-----------------------------------------------------------------------------
(* Prepare. "refused" waits until the rollback was answered; a lost answer is a "no" of which nothing is known. *)

\* An answer came in. With the last one the owner goes on to decide, or to abort.
Votes(p, answer) ==
    LET votes == [vote EXCEPT ![p] = answer] IN
    IF \E q \in Participants : votes[q] \in {"asked", "refused"}
    THEN vote' = votes /\ pc' = pc
    ELSE /\ vote' = Silent
         /\ pc' = IF \A q \in Participants : votes[q] = "yes" THEN "deciding" ELSE "aborting"

Promise(p) ==
    /\ pc = "preparing" /\ vote[p] = "asked"
    /\ \E answer \in {"yes", "refused", "no"}, standing \in Standing :
        /\ IF part[p] = "open"
           THEN <<answer, standing>> \in {<<"yes", "prepared">>, <<"refused", "gone">>}
                                         \cup {<<"no", s>> : s \in {"prepared", "late", "gone"}}
           ELSE answer = "no" /\ standing = part[p]
        /\ part' = [part EXCEPT ![p] = standing]
        /\ Votes(p, answer)
    /\ UNCHANGED Home

Undone(p) == pc = "preparing" /\ vote[p] = "refused" /\ Votes(p, "no") /\ UNCHANGED <<Home, part>>

(* Decide: one packet inserts the row and commits. It is answered, or not; it arrives, or not, or late. *)

DecisionArrives == home' = "over" /\ IF row = "none" THEN Write("committed") ELSE UNCHANGED <<row, decided>>

Decide ==
    /\ pc = "deciding" /\ home = "open"
    /\ \/ DecisionArrives /\ pc' = IF row = "none" THEN "committing" ELSE "deciding"
       \/ DecisionArrives /\ pc' = "probing"
       \/ home' \in {"late", "over"} /\ pc' = "probing" /\ UNCHANGED <<row, decided>>
       \/ home' = "over" /\ pc' = "deciding" /\ UNCHANGED <<row, decided>>
    /\ UNCHANGED <<part, vote>>

\* Refused, or its session ended: certain when the rollback was answered, else unknown.
Undecided == pc = "deciding" /\ home = "over" /\ pc' \in {"aborting", "probing"} /\ UNCHANGED <<Home, part, vote>>

(* Probe: insert a tombstone, or read what is there. *)

Tombstone == row = "none" /\ decided # "committed" /\ Write("aborted") /\ UNCHANGED home

Probe ==
    /\ pc = "probing"
    /\ \/ row \in {"committed", "complete"} /\ pc' = "committing" /\ UNCHANGED Home
       \/ row = "aborted" /\ pc' = "aborting" /\ UNCHANGED Home
       \/ Tombstone /\ pc' \in {"aborting", "is unknown"}
       \/ pc' = "is unknown" /\ UNCHANGED Home
    /\ UNCHANGED <<part, vote>>

\* Whatever cannot be finished now is left to settling.
Tell ==
    /\ \/ pc = "committing" /\ pc' = "is committed"
       \/ pc = "aborting" /\ pc' = "is aborted"
    /\ UNCHANGED <<Home, part, vote>>

Crash ==
    /\ pc \in Working
    /\ pc' = "gone" /\ vote' = Silent
    /\ part' = [p \in Participants |-> IF vote[p] = "asked" /\ part[p] = "open" THEN "late" ELSE part[p]]
    /\ home' = IF pc = "deciding" /\ home = "open" THEN "late" ELSE home
    /\ UNCHANGED <<row, decided>>

-----------------------------------------------------------------------------
(* Settling: by anybody, owner included, at any time, any number of times. While the owner is at work towards its decision,
   only somebody who found a branch prepared inserts a tombstone; later, copies of the packets of earlier probes may arrive. *)

Settle(p) ==
    /\ part[p] = "prepared" /\ decided # "none"
    /\ part' = [part EXCEPT ![p] = IF decided = "committed" THEN "committed" ELSE "gone"]
    /\ UNCHANGED <<Home, pc, vote>>

Found == pc = "aborting" \/ decided = "aborted" \/ \E p \in Participants : part[p] = "prepared"
Copied == Copies /\ (pc \notin {"preparing", "deciding"} \/ decided # "none")
Abort == (Found \/ Copied) /\ Tombstone /\ UNCHANGED <<part, pc, vote>>

Complete ==
    /\ row = "committed" /\ \A p \in Participants : part[p] = "committed"
    /\ row' = "complete" /\ UNCHANGED <<decided, home, part, pc, vote>>

DropEvidence(p) ==
    /\ decided = "committed" /\ row # "committed" /\ part[p] = "committed"
    /\ part' = [part EXCEPT ![p] = "cleared"] /\ UNCHANGED <<Home, pc, vote>>

Purge ==
    /\ \/ row = "complete"
       \/ row = "aborted" /\ home = "over"
    /\ row' = "none" /\ UNCHANGED <<decided, home, part, pc, vote>>

-----------------------------------------------------------------------------
(* Databases and networks, by themselves. *)

LatePrepare(p) == part[p] = "late" /\ part' = [part EXCEPT ![p] = "prepared"] /\ UNCHANGED <<Home, pc, vote>>
LateDecision == home = "late" /\ DecisionArrives /\ UNCHANGED <<part, pc, vote>>
SessionEnds(p) == part[p] \in {"open", "late"} /\ part' = [part EXCEPT ![p] = "gone"] /\ UNCHANGED <<Home, pc, vote>>
HomeEnds == home # "over" /\ home' = "over" /\ UNCHANGED <<row, decided, part, pc, vote>>

Next ==
    \/ Decide \/ Undecided \/ Probe \/ Tell \/ Crash
    \/ Abort \/ Complete \/ Purge \/ LateDecision \/ HomeEnds
    \/ \E p \in Participants :
        Promise(p) \/ Undone(p) \/ Settle(p) \/ DropEvidence(p) \/ LatePrepare(p) \/ SessionEnds(p)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
AllOrNothing ==
    /\ decided = "committed" => \A p \in Participants : part[p] \in {"prepared", "committed", "cleared"}
    /\ decided # "committed" => \A p \in Participants : part[p] \notin {"committed", "cleared"}
DecidedOnce == row # "none" => decided = IF row = "aborted" THEN "aborted" ELSE "committed"
ToldTheTruth == (pc = "is committed" => decided = "committed") /\ (pc = "is aborted" => decided # "committed")
EvidenceStays == row = "committed" => \A p \in Participants : part[p] # "cleared"
CompleteIsComplete == row = "complete" => \A p \in Participants : part[p] \in {"committed", "cleared"}
=============================================================================
