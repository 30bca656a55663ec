//! The text in which metrics are told: Prometheus' exposition format 0.0.4, or `OpenMetrics` 1.0 for those who ask for it.
//!
//! By hand, for there is little to it: nearly all figures are read out of the node when they are asked for, so that a
//! library's registry of live metrics would hold next to none of them, and those that are counted on the way (`meter.rs`)
//! must not pass through its locked families. Knows no metric.

use std::fmt::{Display, Write};

use axum::http::HeaderMap;

use super::headers::ACCEPT;
use crate::meter::Spread;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises while the process lives. Its name ends in `_total`.
    Counter,
    /// It rises and falls.
    Gauge,
    /// Times, by how long they were.
    Histogram,
}

/// A text under way.
pub struct Exposition {
    text: String,
    open_metrics: bool,
}

/// A metric of it, of which samples follow.
pub struct Family<'e> {
    text: &'e mut String,
    name: &'static str,
}

/// Names of labels, and their values.
pub type Labels<'l> = &'l [(&'static str, &'l str)];

impl Exposition {
    /// In the format that a request asks for.
    pub fn for_request(headers: &HeaderMap) -> Exposition {
        let mut accepted = ACCEPT.texts(headers);
        let open_metrics = accepted.any(|value| value.contains("application/openmetrics-text"));
        Exposition { text: String::new(), open_metrics }
    }

    /// Begins a metric. All its samples follow before the next one begins, as both formats want it.
    pub fn family(&mut self, kind: Kind, name: &'static str, help: &str) -> Family<'_> {
        let shown = match kind {
            Kind::Counter if self.open_metrics => name.trim_end_matches("_total"),
            _ => name,
        };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.text += &format!("# HELP {shown} {help}\n# TYPE {shown} {kind}\n");
        Family { text: &mut self.text, name }
    }

    /// A counter of one sample.
    pub fn counter(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(Kind::Counter, name, help).sample(&[], value);
    }

    /// A gauge of one sample.
    pub fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(Kind::Gauge, name, help).sample(&[], value);
    }

    /// The type of the text, and the text.
    pub fn finish(mut self) -> (&'static str, String) {
        if self.open_metrics {
            self.text += "# EOF\n";
            return ("application/openmetrics-text; version=1.0.0; charset=utf-8", self.text);
        }
        ("text/plain; version=0.0.4; charset=utf-8", self.text)
    }
}

impl Family<'_> {
    /// One sample.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line("", labels, None, value);
    }

    /// The samples of a histogram, in seconds.
    pub fn spread(&mut self, labels: Labels<'_>, spread: &Spread) {
        for (bound_us, within) in &spread.within {
            // With a point, as OpenMetrics wants its bounds: 1.0 and not 1.
            let bound = format!("{:?}", *bound_us as f64 / 1e6);
            self.line("_bucket", labels, Some(&bound), within);
        }
        self.line("_bucket", labels, Some("+Inf"), spread.count);
        self.line("_sum", labels, None, spread.sum.as_secs_f64());
        self.line("_count", labels, None, spread.count);
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: impl Display) {
        let labels = labels.iter().copied().chain(le.map(|le| ("le", le)));
        let labels: Vec<String> = labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.text, "{}{suffix}{labels} {value}", self.name).expect("a string takes all that is written");
    }
}

/// A label's value, in quotes of the format.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::header;

    use super::*;

    fn told(accept: Option<&'static str>) -> (&'static str, String) {
        let mut headers = HeaderMap::new();
        headers.extend(accept.map(|accept| (header::ACCEPT, accept.parse().unwrap())));
        let mut text = Exposition::for_request(&headers);
        text.family(Kind::Counter, "x_total", "Of x.").sample(&[("a", "1\\\"\n"), ("b", "")], 3);
        let spread = Spread { within: vec![(250, 1), (1_000_000, 2)], count: 4, sum: Duration::from_millis(2_500) };
        text.family(Kind::Histogram, "y_seconds", "Of y.").spread(&[("c", "d")], &spread);
        text.finish()
    }

    const Y: &str = "# HELP y_seconds Of y.\n# TYPE y_seconds histogram\n\
                     y_seconds_bucket{c=\"d\",le=\"0.00025\"} 1\ny_seconds_bucket{c=\"d\",le=\"1.0\"} 2\n\
                     y_seconds_bucket{c=\"d\",le=\"+Inf\"} 4\ny_seconds_sum{c=\"d\"} 2.5\ny_seconds_count{c=\"d\"} 4\n";

    #[test]
    fn the_text_is_of_the_format_that_was_asked_for() {
        let sample = "x_total{a=\"1\\\\\\\"\\n\",b=\"\"} 3\n";
        let (media, text) = told(None);
        assert_eq!(media, "text/plain; version=0.0.4; charset=utf-8");
        assert_eq!(text, format!("# HELP x_total Of x.\n# TYPE x_total counter\n{sample}{Y}"));
        // As Prometheus asks.
        let (media, text) =
            told(Some("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2"));
        assert_eq!(media, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        assert_eq!(text, format!("# HELP x Of x.\n# TYPE x counter\n{sample}{Y}# EOF\n"));
    }
}
