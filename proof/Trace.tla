------------------------------- MODULE Trace -------------------------------
(* Is a recorded run of the real engine allowed? Steps is a sequence of what was seen of it, from its beginning: home's row, the
   participants' branches, and where the owner stood. Between two records the twin may take any number of steps. TLC is asked
   whether the last record can be reached: when it breaks NotYet, it can. *)

EXTENDS Nodoubt, Steps, Sequences, Naturals

VARIABLE record  \* how many records were met

Met(number) == row = Steps[number].row /\ part = Steps[number].part /\ pc = Steps[number].pc

TraceInit == Init /\ record = 1 /\ Met(1)
TraceNext ==
    \/ Next /\ UNCHANGED record
    \/ record < Len(Steps) /\ Met(record + 1) /\ record' = record + 1 /\ UNCHANGED vars

TraceSpec == TraceInit /\ [][TraceNext]_<<vars, record>>

NotYet == record < Len(Steps)
=============================================================================
