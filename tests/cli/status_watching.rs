//! `status --watch`: what it shows again and again, and how it ends.

use serde_json::{Value, json};

use crate::program::{Node, Running, run};

#[test]
fn status_watch_tells_how_the_pool_moves() {
    let node = Node::start(&["--name", "ada"]);
    let mut watch = Running::start(&["status", "--watch", "--json", "--url", &node.url]);
    let first = watch.json();
    assert_eq!((&first["members"][0]["name"], &first["ops_per_second"]), (&json!("ada"), &Value::Null));
    node.run(&["put", "notes", "milk", "1"]).done();
    // The write lies between two looks, whichever these are.
    let moved = std::iter::repeat_with(|| watch.json()).find(|pool| pool["ops"] == "2").unwrap();
    assert!(moved["ops_per_second"].as_f64() > Some(0.0), "{moved}");
    assert_eq!(moved["members"][0]["ops_per_second"], moved["ops_per_second"]);
    watch.signal("INT");
    assert_eq!(watch.code(), Some(0));
}

#[test]
fn status_watch_is_plain_text_where_no_terminal_is() {
    let node = Node::start(&["--name", "ada", "--pool", "lamps"]);
    let mut watch = Running::start(&["status", "--watch", "--url", &node.url]);
    let view: Vec<String> = std::iter::repeat_with(|| watch.line()).take(10).collect();
    assert!(view[0].starts_with("pool   lamps ("), "{view:?}");
    assert!(view.iter().any(|line| line.starts_with("NAME  LINK  STATE")), "{view:?}");
    assert!(view.iter().any(|line| line.starts_with("ada   self  member")), "{view:?}");
    assert!(view.iter().all(|line| !line.contains('\x1b')), "{view:?}");
    // The next view follows, with what has come meanwhile.
    while !watch.line().starts_with("rate   0 operations a second") {}
    watch.signal("INT");
    assert_eq!(watch.code(), Some(0));
}

#[test]
fn status_watch_goes_on_when_its_node_is_gone_and_never_begins_without_one() {
    run(&["status", "--watch", "--url", "http://127.0.0.1:9"]).failed(5, "cannot reach");
    run(&["status", "--watch", "--ready"]).failed(2, "--ready");
    let node = Node::start(&[]);
    let watch = Running::start(&["status", "--watch", "--json", "--url", &node.url]);
    assert_eq!(watch.json()["state"], "member");
    drop(node);
    let lost = std::iter::repeat_with(|| watch.json()).find(|line| line.get("problem").is_some()).unwrap();
    assert!(lost["problem"]["detail"].as_str().unwrap().contains("cannot reach"), "{lost}");
}
