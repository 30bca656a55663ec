//! Numbers as programs write them.

use crate::support::start_node;

const DOC: &str = "/v1/docs/notes/a";

#[tokio::test]
async fn every_spelling_of_a_double_is_taken_and_kept_in_one() {
    let node = start_node().await;
    for (text, kept) in [
        ("100000000000000000000", "1e+20"),
        ("1e+20", "1e+20"),
        ("1E20", "1e+20"),
        ("100000000000000000000.0", "1e+20"),
        ("-100000000000000000000", "-1e+20"),
        // As JSON.stringify and jq write doubles from 2^63 on.
        ("123456789012345680000", "1.2345678901234568e+20"),
        ("999999999999999900000", "9.999999999999999e+20"),
        ("18446744073709552000", "1.8446744073709552e+19"),
        // As Python writes whole numbers that it had as such.
        ("18446744073709551616", "1.8446744073709552e+19"),
        ("36893488147419103232", "3.6893488147419103e+19"),
        ("0.1000000000000000055511151231257827021181583404541015625", "0.1"),
        ("0.500000000000000000000000000000", "0.5"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("5e-324", "5e-324"),
    ] {
        let put = node.put(DOC, text).await;
        assert!(put.status.is_success(), "{text}: {}", put.text());
        assert_eq!(node.get(DOC).await.text(), kept, "{text}");
        assert!(node.put(DOC, kept).await.status.is_success(), "{kept}");
        assert_eq!(node.get(DOC).await.text(), kept, "{text}");
    }
    for text in [
        "18446744073709551617",
        "-9223372036854775809",
        "100000000000000000001",
        "0.12345678901234567890",
        "0.10000000000000000555",
        "1e999",
        "1e-999",
        "100000000000000000000000000000000000000000000000001",
    ] {
        let detail = node.put(DOC, text).await.expect_problem(400, "inexact-number");
        assert!(detail.contains("as a string"), "{detail}");
    }
}
