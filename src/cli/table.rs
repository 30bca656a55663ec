//! Tables as spreadsheet programs write them: their charset and their delimiter.
//!
//! Excel writes semicolons where the comma is the decimal sign, tabs in UTF-16 as "Unicode text", and else what the code
//! page of the system has. So a mark of byte order decides about the charset, and the first rows about the delimiter.

use std::io::{self, Cursor, Read};

use encoding_rs::{Encoding, UTF_8};
use encoding_rs_io::DecodeReaderBytesBuilder;

/// Bytes of a table that tell its delimiter.
pub const SAMPLE_BYTES: usize = 64 << 10;
/// Delimiters, the usual one first.
const DELIMITERS: [u8; 4] = *b",;\t|";
/// The beginning of a first line that names the delimiter, as Excel reads it.
const SEP: &[u8] = b"sep=";
/// Bytes of a mark of byte order.
pub const MARK_BYTES: usize = 3;
/// U+FFFD in UTF-8.
const REPLACED: [u8; 3] = *b"\xef\xbf\xbd";
/// The mark of byte order in UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// An input whose beginning has been read and is read again.
pub type Whole<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// Reads `--charset`.
pub fn charset(label: &str) -> Result<&'static Encoding, String> {
    Encoding::for_label_no_replacement(label.as_bytes())
        .ok_or_else(|| "it is no charset of the Encoding standard, such as windows-1252 or utf-16le".into())
}

/// Reads `--delimiter`.
pub fn delimiter(text: &str) -> Result<u8, String> {
    match (text, text.as_bytes()) {
        ("tab" | "\\t", _) => Ok(b'\t'),
        (_, [one]) if one.is_ascii() && !b"\"\r\n".contains(one) => Ok(*one),
        _ => Err("a delimiter is one character of ASCII, or tab".into()),
    }
}

/// The charset of a file that begins so.
pub fn charset_of(head: &[u8], named: Option<&'static Encoding>) -> &'static Encoding {
    Encoding::for_bom(head).map(|(encoding, _)| encoding).or(named).unwrap_or(UTF_8)
}

/// An input in UTF-8: as it is, if its charset is that.
pub fn decoded<'r>(input: impl Read + 'r, charset: &'static Encoding) -> Box<dyn Read + 'r> {
    if charset == UTF_8 {
        return Box::new(input);
    }
    // Its mark of byte order is no part of the text.
    let inner = DecodeReaderBytesBuilder::new().encoding(Some(charset)).bom_override(true).build(input);
    Box::new(Strict { inner, charset, last: [0; 2] })
}

/// A decoded input that fails where something could not be decoded: the decoder writes U+FFFD there.
struct Strict<R> {
    inner: R,
    charset: &'static Encoding,
    /// The last bytes that were read.
    last: [u8; 2],
}

impl<R: Read> Read for Strict<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        let all: Vec<u8> = self.last.iter().chain(&buffer[..length]).copied().collect();
        if all.windows(REPLACED.len()).any(|bytes| bytes == REPLACED) {
            let name = self.charset.name().to_ascii_lowercase();
            let why = format!("it holds something that is no {name}: name the right charset with --charset");
            return Err(io::Error::other(why));
        }
        self.last = all.last_chunk().copied().unwrap_or_default();
        Ok(length)
    }
}

/// Reads the first bytes of an input. Returns them, and the input from its beginning.
pub fn sampled<R: Read>(mut input: R, bytes: usize) -> io::Result<(Vec<u8>, Whole<R>)> {
    let mut head = Vec::new();
    input.by_ref().take(bytes as u64).read_to_end(&mut head)?;
    Ok((head.clone(), Cursor::new(head).chain(input)))
}

/// The layout of a table: the line before its header, and the delimiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the line that names the delimiter; 0 if there is none.
    pub skipped: usize,
    /// The delimiter between cells.
    pub delimiter: u8,
}

impl Layout {
    /// The layout of a table that begins so. `named` is the delimiter that the user names.
    pub fn of(head: &[u8], named: Option<u8>) -> Layout {
        let (skipped, told) = told_delimiter(head).unwrap_or_default();
        let rows = &head[skipped..];
        let delimiter = named.or((skipped > 0).then_some(told)).unwrap_or_else(|| likely_delimiter(rows));
        Layout { skipped, delimiter }
    }
}

/// The length of a first line that names the delimiter, and that.
fn told_delimiter(head: &[u8]) -> Option<(usize, u8)> {
    let marked = head.strip_prefix(MARK).unwrap_or(head);
    let length = marked.iter().position(|byte| *byte == b'\n')? + 1;
    let line = marked[..length].trim_ascii_end();
    let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
    // Of a tab nothing is left where the end was trimmed.
    let told = match line.strip_prefix(SEP)? {
        [] => b'\t',
        [one] => *one,
        _ => return None,
    };
    Some((head.len() - marked.len() + length, told))
}

/// The delimiter that makes the first rows alike, and of several the one that makes the most cells of them.
fn likely_delimiter(head: &[u8]) -> u8 {
    let is_cut = head.len() >= SAMPLE_BYTES - MARK.len();
    let score = |delimiter: u8| {
        let mut rows =
            csv::ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(head);
        let mut lengths: Vec<usize> = rows.byte_records().map_while(Result::ok).map(|row| row.len()).collect();
        if is_cut {
            lengths.pop();
        }
        let header = *lengths.first()?;
        let alike = lengths.iter().filter(|length| **length == header).count();
        (header > 1).then_some((alike * 1000 / lengths.len(), header))
    };
    // The first of the best, for `max_by_key` gives the last.
    DELIMITERS
        .into_iter()
        .rev()
        .filter_map(|delimiter| Some((score(delimiter)?, delimiter)))
        .max_by_key(|(score, _)| *score)
        .map_or(b',', |(_, delimiter)| delimiter)
}

/// A number with a comma as the decimal sign, as JSON has it; none if the cell is no such number. Without a comma a point could
/// stand between thousands, in a date or in an address.
pub fn with_point(cell: &str) -> Option<String> {
    let (sign, number) = cell.strip_prefix('-').map_or(("", cell), |number| ("-", number));
    let (whole, fraction) = number.split_once(',')?;
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // A point, or a blank that does not break, stands between thousands.
    let mut groups = whole.split(['.', '\u{a0}', '\u{202f}', ' ']);
    let first = groups.next().unwrap_or_default();
    let rest: Vec<&str> = groups.collect();
    let is_grouped = rest.iter().all(|group| group.len() == 3 && is_digits(group));
    let is_number = is_digits(first) && is_digits(fraction) && is_grouped && (rest.is_empty() || first.len() <= 3);
    // A number that begins with 0 is a code, such as that of a town.
    let is_code = whole.len() > 1 && first.starts_with('0');
    (is_number && !is_code).then(|| format!("{sign}{first}{}.{fraction}", rest.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delimiter_is_the_one_that_makes_rows_alike() {
        let check = |text: &str, delimiter: u8, skipped| {
            assert_eq!(Layout::of(text.as_bytes(), None), Layout { skipped, delimiter }, "{text:?}");
        };
        check("id,name\n1,a\n", b',', 0);
        check("id;price\n1;2,5\n2;3,5\n", b';', 0);
        check("id;a;b\n1;2,5;3,5\n", b';', 0);
        check("id\tname\n1\ta, b; c\n", b'\t', 0);
        check("id|name\n1|a,b\n", b'|', 0);
        check("id,note\n1,\"a;b;c;d\"\n", b',', 0);
        check("\"id\";\"a,b,c\"\n1;\"x\ny\"\n", b';', 0);
        check("id\n1\n", b',', 0);
        check("", b',', 0);
        check("sep=;\r\nid;name\r\n", b';', 7);
        check("\u{feff}\"sep=|\"\nid|name\n", b'|', 11);
        check("sep=\t\r\nid\tname\r\n", b'\t', 7);
        check("sep=ab\nx\n", b',', 0);
        assert_eq!(Layout::of(b"sep=;\na,b\n", Some(b',')), Layout { skipped: 6, delimiter: b',' });
    }

    #[test]
    fn a_comma_may_be_the_decimal_sign() {
        let check = |cell, expected: Option<&str>| assert_eq!(with_point(cell).as_deref(), expected, "{cell}");
        check("2,50", Some("2.50"));
        check("-0,5", Some("-0.5"));
        check("1.234.567,00", Some("1234567.00"));
        check("1\u{a0}234,5", Some("1234.5"));
        for other in
            ["", "-", ",5", "5,", "1,2,3", "1.23,4", "a,b", "01234", "1234.567,0", "1.2", "+1,5", "12", "0.123,4"]
        {
            check(other, None);
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_not_replaced() {
        let decode = |bytes: &[u8], name| {
            let mut text = String::new();
            decoded(bytes, charset(name).unwrap()).read_to_string(&mut text).map(|_| text)
        };
        assert_eq!(decode(b"\x82\xa0", "shift_jis").unwrap(), "あ");
        assert!(decode(b"\x82\xa0\x82", "shift_jis").unwrap_err().to_string().contains("shift_jis"));
        assert!(decode(b"i\0\x00\xd8", "utf-16le").is_err());
        let mut bytewise = decoded(&b"a\x81\xff\xffz"[..], charset("shift_jis").unwrap());
        let mut one = [0];
        assert!((0..20).any(|_| bytewise.read(&mut one).is_err()), "also where reads are short");
    }

    #[test]
    fn a_charset_and_a_delimiter_are_read_from_flags() {
        assert_eq!(charset("ANSI_X3.4-1968").unwrap().name(), "windows-1252");
        assert!(charset("utf-7").is_err());
        assert_eq!((delimiter("tab"), delimiter(";")), (Ok(b'\t'), Ok(b';')));
        for bad in ["", ";;", "\"", "\n", "é"] {
            assert!(delimiter(bad).is_err(), "{bad:?}");
        }
        assert_eq!(charset_of(b"\xff\xfei", charset("latin1").ok()).name(), "UTF-16LE");
        assert_eq!(charset_of(b"id", None), UTF_8);
    }
}
