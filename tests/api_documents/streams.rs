//! Responses that go on while they are read, as a proxy that buffers must be told of them.

use hyper::Method;

use crate::support::start_node;

#[tokio::test]
async fn every_stream_tells_proxies_to_pass_it_on_as_it_comes() {
    let node = start_node().await;
    node.put("/v1/docs/notes/a", "1").await.expect(201);
    let events = |path: &str| node.call(Method::GET, path).header("accept", "text/event-stream");
    let lines = |media| node.call(Method::POST, "/v1/docs/notes").typed(media, "{\"value\":1}\n");
    for (call, media) in [
        (events("/v1/changes"), "text/event-stream"),
        (events("/v1/changes?view=final"), "text/event-stream"),
        (lines("application/x-ndjson"), "application/x-ndjson"),
        (node.call(Method::GET, "/v1/backup"), "application/octet-stream"),
    ] {
        let response = call.stream().await;
        let headers = response.headers();
        assert_eq!((response.status().as_u16(), &headers["content-type"]), (200, &media.try_into().unwrap()));
        assert_eq!(headers["x-accel-buffering"], "no", "{media}");
        assert_eq!(headers["cache-control"], "no-cache, no-transform", "{media}");
    }
}
