//! What `/metrics` says, read as strictly as its formats are written down.

use std::collections::{BTreeMap, BTreeSet};

use super::{Answer, TestNode};

/// Labels and their values, as they stand.
pub type Labels = Vec<(String, String)>;

/// A metric.
#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    /// Suffix of the name, labels, value.
    pub samples: Vec<(String, Labels, f64)>,
}

/// All of them, by name.
#[derive(Debug)]
pub struct Scrape(pub BTreeMap<String, Family>);

impl Scrape {
    /// Asks a node.
    pub async fn of(node: &TestNode) -> Scrape {
        let answer = node.get("/metrics").await.expect(200);
        assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        Scrape::read(&answer.text())
    }

    /// Asks until what it says is as wanted.
    pub async fn until(node: &TestNode, wanted: impl Fn(&Scrape) -> bool) -> Scrape {
        loop {
            let scrape = Scrape::of(node).await;
            if wanted(&scrape) {
                return scrape;
            }
        }
    }

    /// Reads an answer in `OpenMetrics`.
    pub fn read_open(answer: &Answer) -> Scrape {
        assert_eq!(answer.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
        let text = answer.text();
        let mut lines = text.strip_suffix("# EOF\n").expect("it says where it ends").to_string();
        assert!(!lines.contains("# EOF"));
        // What else differs is the name of a counter, which here has no suffix.
        for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")) {
            for kind in ["HELP", "TYPE"] {
                lines = lines.replace(&format!("# {kind} {name} "), &format!("# {kind} {name}_total "));
            }
        }
        Scrape::read(&lines)
    }

    /// Reads the text format 0.0.4. A line that is not of it fails the test.
    pub fn read(text: &str) -> Scrape {
        assert!(text.ends_with('\n'));
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let (mut name, mut seen) = (String::new(), BTreeSet::new());
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (new, says) = help.split_once(' ').expect("a name and a sentence");
                assert!(says.ends_with('.') && !says.contains(['"', '\\']), "{line}");
                let typed = lines.next().and_then(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
                let (of, kind) = typed.expect("the type follows");
                assert!(of == new && is_name(new) && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
                let family = Family { kind: kind.into(), samples: Vec::new() };
                assert!(families.insert(new.into(), family).is_none(), "{new} is there twice");
                name = new.to_string();
                continue;
            }
            let family = families.get_mut(&name).expect("a sample follows its name");
            let (sample, labels, value) = sample(line);
            let suffix = sample.strip_prefix(&name).unwrap_or_else(|| panic!("{line:?} among those of {name}"));
            let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}");
            assert!(seen.insert((sample.clone(), labels.clone())), "{line} is there twice");
            assert!(!value.is_nan() && value >= 0.0, "{line}");
            family.samples.push((suffix.to_string(), labels, value));
        }
        Scrape(families)
    }

    /// The value of a sample; 0 if there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let family = self.0.get(name).unwrap_or_else(|| panic!("there is no {name}"));
        let wanted: Labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let mut found = family.samples.iter().filter(|(suffix, labels, _)| suffix.is_empty() && *labels == wanted);
        found.next().map_or(0.0, |(_, _, value)| *value)
    }

    /// All values that a label has.
    pub fn values_of(&self, label: &str) -> BTreeSet<&str> {
        let labels = self.0.values().flat_map(|family| &family.samples).flat_map(|(_, labels, _)| labels);
        labels.filter(|(name, _)| name == label).map(|(_, value)| value.as_str()).collect()
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_'))
}

/// `name{label="value",…} number`.
fn sample(line: &str) -> (String, Labels, f64) {
    let (head, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?} is no sample"));
    let value = value.parse().unwrap_or_else(|_| panic!("{line:?} has no number"));
    let Some((name, labels)) = head.split_once('{') else {
        assert!(is_name(head), "{line}");
        return (head.to_string(), Vec::new(), value);
    };
    let mut rest = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line:?} does not end"));
    let mut read = Vec::new();
    while !rest.is_empty() {
        let (label, behind) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line:?} has a label without a value"));
        assert!(is_name(label) && is_name(name), "{line}");
        let (mut value, mut chars, mut escapes) = (String::new(), behind.char_indices(), false);
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("{line:?} does not end")) {
                (_, char) if escapes => {
                    assert!(matches!(char, '\\' | '"' | 'n'), "{line}");
                    value.push(if char == 'n' { '\n' } else { char });
                    escapes = false;
                }
                (_, '\\') => escapes = true,
                (at, '"') => break at,
                (_, char) => value.push(char),
            }
        };
        read.push((label.to_string(), value));
        rest = &behind[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    (name.to_string(), read, value)
}
