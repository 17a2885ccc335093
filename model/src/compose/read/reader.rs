//! Reads fields of a tree of nodes and collects what is wrong with them: never stops at the first problem.

use std::{fmt::Display, str::FromStr};

use super::super::{
    known::Section,
    problem::{MAX_PROBLEMS, Problem},
    yaml::{Flaw, Node, Place, Value},
};

/// A value together with where it is.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    /// `services.web.ports[0]`.
    pub(super) path: String,
    /// Place of its key, or of itself where it has none.
    pub(super) key_at: Place,
    pub(super) node: &'a Node,
}

impl Field<'_> {
    /// Place of the value.
    pub(super) fn at(&self) -> Place {
        self.node.at
    }

    /// Null, or nothing written at all.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.node.value, Value::Scalar { text, plain: true } if Plain::of(text) == Plain::Null)
    }

    pub(super) fn is_scalar(&self) -> bool {
        matches!(self.node.value, Value::Scalar { .. })
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    /// What it is, for people.
    fn kind(&self) -> &'static str {
        match &self.node.value {
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Scalar { plain: false, .. } => "a text",
            Value::Scalar { text, plain: true } => match Plain::of(text) {
                Plain::Null => "empty",
                Plain::Bool(_) => "a boolean",
                Plain::Number => "a number",
                Plain::Text => "a text",
            },
        }
    }
}

/// What an unquoted scalar is (YAML 1.2, core schema).
#[derive(Debug, PartialEq, Eq)]
enum Plain {
    Null,
    Bool(bool),
    Number,
    Text,
}

impl Plain {
    fn of(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Self::Null,
            "true" | "True" | "TRUE" => Self::Bool(true),
            "false" | "False" | "FALSE" => Self::Bool(false),
            ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN" => Self::Number,
            _ => {
                let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
                let numeric = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
                    && (unsigned.parse::<f64>().is_ok() || is_radix(unsigned));
                if numeric { Self::Number } else { Self::Text }
            }
        }
    }
}

fn is_radix(text: &str) -> bool {
    let digits = |rest: &str, radix| !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix));
    text.strip_prefix("0x").is_some_and(|rest| digits(rest, 16))
        || text.strip_prefix("0o").is_some_and(|rest| digits(rest, 8))
}

/// Outside text as it is quoted in messages: short.
pub(super) fn cut(text: &str) -> String {
    if text.chars().count() <= 80 { text.to_owned() } else { text.chars().take(79).chain(['…']).collect() }
}

/// With escapes for what a terminal would act on or not show: keys are quoted as they are, and whoever writes a file is not
/// always who reads what is wrong with it.
fn visible(text: &str) -> String {
    let shown = |c: char| match c {
        '"' | '\'' | '\\' => c.to_string(),
        c => c.escape_debug().to_string(),
    };
    text.chars().map(shown).collect()
}

/// Collects problems while fields are read.
#[derive(Debug, Default)]
pub(super) struct Reader {
    problems: Vec<Problem>,
}

impl Reader {
    pub(super) fn refuse(
        &mut self,
        at: Place,
        path: &str,
        cause: impl Into<String>,
        cure: impl Into<String>,
    ) {
        let (key, cause, cure) = (visible(path), visible(&cause.into()), visible(&cure.into()));
        self.problems.push(Problem { line: at.line, column: at.column, key, cause, cure });
    }

    pub(super) fn refuse_value(
        &mut self,
        field: &Field<'_>,
        cause: impl Into<String>,
        cure: impl Into<String>,
    ) {
        self.refuse(field.at(), &field.path, cause, cure);
    }

    pub(super) fn flaw(&mut self, flaw: Flaw) {
        self.refuse(flaw.at, &flaw.key, flaw.cause, flaw.cure);
    }

    /// All problems by place, each once, and not more than anyone reads.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        self.problems
            .sort_by(|a, b| (a.line, a.column, &a.key, &a.cause).cmp(&(b.line, b.column, &b.key, &b.cause)));
        // An alias repeats a problem at the same place under another key.
        self.problems.dedup_by(|a, b| (a.line, a.column, &a.cause) == (b.line, b.column, &b.cause));
        self.problems.truncate(MAX_PROBLEMS);
        self.problems
    }

    pub(super) fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    fn wrong_type(&mut self, field: &Field<'_>, wanted: &str) {
        let cure = match (&field.node.value, wanted) {
            _ if field.is_null() => "write a value, or remove the key".to_owned(),
            (Value::Scalar { text, plain: true }, "a text") => format!("put it in quotes: \"{}\"", cut(text)),
            _ => format!("write {wanted}"),
        };
        self.refuse_value(field, format!("this is {}, not {wanted}", field.kind()), cure);
    }

    /// The entries of a map; `x-*` keys of others are left out.
    pub(super) fn entries<'a>(&mut self, field: &Field<'a>) -> Vec<(&'a str, Field<'a>)> {
        let Value::Map(map) = &field.node.value else {
            self.wrong_type(field, "a map");
            return Vec::new();
        };
        let entry = |(key, node): &'a (_, Node)| -> (&'a str, Field<'a>) {
            let key: &'a super::super::yaml::Key = key;
            let name = cut(&key.text);
            let path = if field.path.is_empty() { name } else { format!("{}.{name}", field.path) };
            (&key.text, Field { path, key_at: key.at, node })
        };
        map.iter()
            .filter(|(key, _)| !key.text.starts_with("x-") || key.text == "x-cairn")
            .map(entry)
            .collect()
    }

    /// The items of a list.
    pub(super) fn items<'a>(&mut self, field: &Field<'a>) -> Vec<Field<'a>> {
        let Value::List(list) = &field.node.value else {
            self.wrong_type(field, "a list");
            return Vec::new();
        };
        let item = |(index, node): (usize, &'a Node)| Field {
            path: format!("{}[{index}]", field.path),
            key_at: node.at,
            node,
        };
        list.iter().enumerate().map(item).collect()
    }

    /// Refuses a key that `section` does not honour, with the cure that fits best.
    pub(super) fn unknown(&mut self, field: &Field<'_>, name: &str, section: &Section) {
        let (cause, cure) = section.refusal(&cut(name));
        self.refuse(field.key_at, &field.path, cause, cure);
    }

    /// A text; numbers and booleans must be quoted.
    pub(super) fn text(&mut self, field: &Field<'_>) -> Option<String> {
        match &field.node.value {
            Value::Scalar { text, plain } if !plain || Plain::of(text) == Plain::Text => {
                self.expand(field, text)
            }
            _ => {
                self.wrong_type(field, "a text");
                None
            }
        }
    }

    /// A text that is not empty.
    pub(super) fn full_text(&mut self, field: &Field<'_>) -> Option<String> {
        let text = self.text(field)?;
        if text.is_empty() {
            self.refuse_value(field, "this text is empty", "write a value, or remove the key");
            return None;
        }
        Some(text)
    }

    /// A text, number or boolean, as it is written: where Compose takes all of them for text.
    pub(super) fn scalar(&mut self, field: &Field<'_>) -> Option<String> {
        match &field.node.value {
            Value::Scalar { text, .. } if !field.is_null() => self.expand(field, text),
            _ => {
                self.wrong_type(field, "a text");
                None
            }
        }
    }

    /// `$$` to `$`. Variables are refused: the file that is signed must be the file that runs.
    fn expand(&mut self, field: &Field<'_>, text: &str) -> Option<String> {
        if text.replace("$$", "").contains('$') {
            let cure = "write the value itself, or `$$` for a dollar sign";
            self.refuse_value(field, "variables ($NAME, ${NAME}) are not supported", cure);
            return None;
        }
        Some(text.replace("$$", "$"))
    }

    pub(super) fn boolean(&mut self, field: &Field<'_>) -> Option<bool> {
        if let Value::Scalar { text, plain: true } = &field.node.value
            && let Plain::Bool(value) = Plain::of(text)
        {
            return Some(value);
        }
        self.wrong_type(field, "true or false");
        None
    }

    /// A whole number from `min` to `max`; in quotes too, as Compose allows.
    pub(super) fn number(&mut self, field: &Field<'_>, min: u64, max: u64) -> Option<u64> {
        let text = self.number_text(field)?;
        match text.parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => Some(number),
            _ => {
                let cause = format!("{:?} is no whole number from {min} to {max}", cut(&text));
                self.refuse_value(field, cause, "write such a number");
                None
            }
        }
    }

    fn number_text(&mut self, field: &Field<'_>) -> Option<String> {
        if !field.is_scalar() || field.is_null() {
            self.wrong_type(field, "a number");
            return None;
        }
        self.scalar(field)
    }

    /// As [`Reader::number`], for 32 bits.
    pub(super) fn number32(&mut self, field: &Field<'_>, min: u32, max: u32) -> Option<u32> {
        self.number(field, min.into(), max.into()).and_then(|number| number.try_into().ok())
    }

    pub(super) fn port(&mut self, field: &Field<'_>) -> Option<u16> {
        self.number(field, 1, 65535).and_then(|number| number.try_into().ok())
    }

    /// A text that parses; `cure` says how it should look.
    pub(super) fn parsed<T>(&mut self, field: &Field<'_>, cure: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.full_text(field)?;
        self.ok(field, text.parse(), cure)
    }

    /// The value, or its error as a problem.
    pub(super) fn ok<T, E: Display>(
        &mut self,
        field: &Field<'_>,
        result: Result<T, E>,
        cure: &str,
    ) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse_value(field, error.to_string(), cure);
                None
            }
        }
    }

    /// One of `choices` by its name.
    pub(super) fn choice<T: Copy>(&mut self, field: &Field<'_>, choices: &[(&str, T)]) -> Option<T> {
        // `restart: no` is a text to Compose although older YAML takes it for a boolean.
        let text = self.scalar(field)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let names = choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        self.refuse_value(
            field,
            format!("{:?} is not supported here", cut(&text)),
            format!("write one of: {names}"),
        );
        None
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, field: &Field<'_>) -> Vec<String> {
        self.items(field).iter().filter_map(|item| self.text(item)).collect()
    }

    /// A command line: a list as it is, a text split as a shell would split it (and never given to one).
    pub(super) fn command_line(&mut self, field: &Field<'_>) -> Option<Vec<String>> {
        if field.is_list() {
            return Some(self.texts(field));
        }
        if field.is_map() {
            self.wrong_type(field, "a text or a list of texts");
            return None;
        }
        let text = self.text(field)?;
        let commented = text.split_whitespace().any(|word| word.starts_with('#'));
        match shlex::split(&text) {
            Some(words) if !commented => Some(words),
            _ => {
                let cause = "this command line cannot be split into words (an open quote, or a word that starts with #)";
                self.refuse_value(field, cause, "write it as a list: [\"program\", \"argument\"]");
                None
            }
        }
    }

    /// `NAME: value` pairs of a map, or `NAME=value` of a list; a value is absent where none is written.
    pub(super) fn pairs<'a>(
        &mut self,
        field: &Field<'a>,
        separators: &[char],
    ) -> Vec<(String, Option<String>, Field<'a>)> {
        let mut pairs: Vec<(String, Option<String>, Field<'a>)> = Vec::new();
        if field.is_map() {
            for (name, value) in self.all_entries(field) {
                let text = if value.is_null() { Some(None) } else { self.scalar(&value).map(Some) };
                if let Some(text) = text {
                    pairs.push((name.to_owned(), text, value));
                }
            }
            return pairs;
        }
        if !field.is_list() {
            self.wrong_type(field, "a map or a list");
            return pairs;
        }
        let mut names = std::collections::BTreeSet::new();
        for item in self.items(field) {
            let Some(text) = self.text(&item) else { continue };
            let (name, value) = match text.split_once(separators) {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (text, None),
            };
            if !names.insert(name.clone()) {
                self.refuse_value(&item, format!("{:?} is here twice", cut(&name)), "keep one of them");
            } else {
                pairs.push((name, value, item));
            }
        }
        pairs
    }

    /// As [`Reader::entries`], without a word on what is no map: for a second look.
    pub(super) fn quiet_entries<'a>(&mut self, field: &Field<'a>) -> Vec<(&'a str, Field<'a>)> {
        if field.is_map() { self.entries(field) } else { Vec::new() }
    }

    /// As [`Reader::items`], likewise.
    pub(super) fn quiet_items<'a>(&mut self, field: &Field<'a>) -> Vec<Field<'a>> {
        if field.is_list() { self.items(field) } else { Vec::new() }
    }

    /// The text as it is written, likewise.
    pub(super) fn quiet_text<'a>(&self, field: &Field<'a>) -> Option<&'a str> {
        match &field.node.value {
            Value::Scalar { text, .. } => Some(text),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// The entries of a map whose keys are free names: `x-…` is one of them.
    pub(super) fn all_entries<'a>(&mut self, field: &Field<'a>) -> Vec<(&'a str, Field<'a>)> {
        let Value::Map(map) = &field.node.value else {
            self.wrong_type(field, "a map");
            return Vec::new();
        };
        let entry = |(key, node): &'a (super::super::yaml::Key, Node)| {
            let path = format!("{}.{}", field.path, cut(&key.text));
            (key.text.as_str(), Field { path, key_at: key.at, node })
        };
        map.iter().map(entry).collect()
    }
}
