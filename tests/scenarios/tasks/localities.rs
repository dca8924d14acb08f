//! Pages with Helloworld about places: failover and distribution. Client and waypoint are in region1, zone1.

use anyhow::Result;
use weft_tests::needs;

use super::page::{Ask, Page, get, turn};
use super::stage::{App, Serves, Stage};

const fn helloworld(node: &'static str) -> App {
    App {
        app: "helloworld",
        version: node,
        namespace: "sample",
        account: "helloworld",
        node,
        serves: Serves::Http(5000),
    }
}

const APPS: [App; 5] = [
    App { app: "curl", version: "", namespace: "sample", account: "curl", node: "a", serves: Serves::Nothing },
    helloworld("a"),
    helloworld("b"),
    helloworld("c"),
    helloworld("d"),
];

fn hello() -> Ask {
    get("curl", "http://helloworld.sample:5000/hello")
}

#[test]
fn helloworld_is_answered_from_where_the_pages_say() -> Result<()> {
    needs!("curl");
    let mut stage = Stage::open("tasks-places", &["a", "b", "c", "d"], "helloworld", "sample", &APPS)?;
    for (node, region, zone) in PLACES {
        let labels = format!("{{topology.kubernetes.io/region: {region}, topology.kubernetes.io/zone: {zone}}}");
        let text = format!("{{apiVersion: v1, kind: Node, metadata: {{name: {node}, labels: {labels}}}}}\n");
        stage.mesh.apply(&format!("node-{node}"), &text)?;
    }
    let shares = [("helloworld-a", 70), ("helloworld-b", 20), ("helloworld-d", 10)];
    let distributed = Page::of(&["traffic/locality-distribute"]).shares(hello(), 400, &shares);
    let end = |name: &'static str| {
        move |stage: &mut Stage| {
            stage.programs.remove(name).into_iter().flatten().try_for_each(|mut program| program.kill())
        }
    };
    let failing_over = Page::of(&["traffic/locality-failover"])
        .ask(hello().by(&["helloworld-a"]).times(5))
        .then(end("helloworld-a"))
        .until(hello().by(&["helloworld-b"]))
        .ask(hello().by(&["helloworld-b"]).times(5))
        .then(end("helloworld-b"))
        .until(hello().by(&["helloworld-c"]))
        .ask(hello().by(&["helloworld-c"]).times(5))
        .then(end("helloworld-c"))
        .until(hello().by(&["helloworld-d"]))
        .ask(hello().by(&["helloworld-d"]).times(5));
    turn([distributed, failing_over], &mut stage)
}

const PLACES: [(&str, &str, &str); 4] =
    [("a", "region1", "zone1"), ("b", "region1", "zone2"), ("c", "region2", "zone3"), ("d", "region3", "zone4")];
