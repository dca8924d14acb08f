//! `--keep`: the mesh stays up, with lines to look around that work as they are printed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread;

use anyhow::Result;

use super::screen::put;
use super::stage::{NAMESPACE, Stage};
use crate::apps::HTTP;
use crate::place::Place;

/// Labels the namespace again, prints how to look around and waits for a signal.
pub(super) fn stay(stage: &Stage) -> Result<()> {
    let mesh = &stage.mesh;
    mesh.namespace(NAMESPACE, true)?;
    for (pod, _) in stage.pods() {
        mesh.until_captured(pod)?;
    }
    let enter = enter(stage)?;
    let enter = enter.display();
    let source = mesh.source.dir().display();
    let world = &mesh.world;
    let (a, wire) = (world.node("a").netns().name(), world.wire().netns().name());
    put(&format!(
        "\nThe mesh stays up, and namespace {NAMESPACE} is in it again. Ctrl-C takes everything down. In another terminal, as root:\n\n\
         talk from a pod          {enter} web redis-cli -h {db} PING\n\
         \x20                        {enter} web curl -i http://{site}:{HTTP}/\n\
         be outside of the mesh   {enter} outside curl -i http://{site}:{HTTP}/\n\
         metrics of node a        ip netns exec {a} curl -s http://127.0.0.1:15000/metrics\n\
         what node a believes     ip netns exec {a} curl -s http://127.0.0.1:15000/config\n\
         its connections          ip netns exec {a} curl -s http://127.0.0.1:15000/connections\n\
         the controller           ip netns exec {wire} curl -s http://127.0.0.1:15014/metrics\n\
         watch the wire           ip netns exec {wire} tcpdump -ni {port} -A\n\
         logs                     tail -f {logs}/*mesh-*.log\n\
         objects                  ls {source}; an edit is in force at once:\n\
         \x20                        sed -i s/weft/none/ {source}/namespace-{NAMESPACE}.yaml",
        db = stage.db.v4,
        site = stage.site.v4,
        port = world.node("a").port(),
        logs = world.run().logs().display(),
    ));
    loop {
        thread::park();
    }
}

/// Writes a script that runs a command in a place: `ip netns exec` alone would be in the namespace and not in the cgroup
/// that the agent's hooks are on.
fn enter(stage: &Stage) -> Result<PathBuf> {
    let world = &stage.mesh.world;
    let case = |name: &str, place: &Place| {
        let (cgroup, netns) = (place.cgroup().dir().display(), place.netns().name());
        format!("{name}) cgroup={cgroup} netns={netns} ;;\n")
    };
    let pods: String = stage.pods().iter().map(|(pod, _)| case(&pod.name, pod)).collect();
    let outside = case("outside", world.outside());
    let script = format!(
        "#!/bin/sh\n# in POD COMMAND..: runs it as the pod's own programs run.\ncase $1 in\n{pods}{outside}\
         *) echo \"no pod $1\" >&2; exit 2 ;;\nesac\nshift\necho 0 > \"$cgroup/cgroup.procs\"\nexec ip netns exec \"$netns\" \"$@\"\n"
    );
    let file = world.run().dir().join("in");
    fs::write(&file, script)?;
    fs::set_permissions(&file, Permissions::from_mode(0o755))?;
    Ok(file)
}
