import sys
from nodoubt.testing.servers import PostgreSQLServer, MariaDBServer
from tests.fidelity import real
from tests.fidelity.play import Play
from tests.fidelity.simulated import SimulatedSide
from tests.fidelity.script import scripts
import difflib

for kind, S, L in (
    ("postgresql", PostgreSQLServer, real.PostgreSQLLaboratory),
    ("mariadb", MariaDBServer, real.MariaDBLaboratory),
):
    if len(sys.argv) > 1 and sys.argv[1] != kind:
        continue
    with S.start() as server:
        lab = L(server, server.create_database("fid"))
        for script in scripts(kind):
            play = Play(real.RealSide(lab))
            try:
                r = play.run(script)
            except BaseException:
                print("\n".join(play.transcript))
                raise
            s = Play(SimulatedSide(kind)).run(script)
            print(kind, script.title, "same" if r == s else "DIFFERENT", len(r))
            if r != s or "-v" in sys.argv:
                print("\n".join(difflib.ndiff(r, s)))
        lab.close()
