//! YAML as a tree of bounded size and depth, where every node knows its line and column.
//!
//! On `saphyr-parser`'s events, not on a tree or on serde: those lose places, take the last of two equal keys, or stop
//! at the first problem.

use std::{borrow::Cow, collections::HashMap};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};

/// Deepest nesting. A Compose file needs nine.
const MAX_DEPTH: usize = 32;
/// Most nodes with every alias written out: many times the largest file that people keep by hand, and few enough that the
/// search for equal keys, quadratic in a map, stays in the milliseconds.
const MAX_NODES: usize = 20_000;

/// Line and column in characters, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Place {
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

impl From<Marker> for Place {
    fn from(marker: Marker) -> Self {
        Self { line: marker.line().max(1), column: marker.col() + 1 }
    }
}

/// A value.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) value: Value,
}

/// What a [`Node`] is.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// `plain` if it was written without quotes: only then can it be a number, a boolean or null.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    /// In the file's order; no key is there twice.
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) at: Place,
    pub(super) text: String,
}

/// What is wrong with the text, and how to mend it.
#[derive(Debug)]
pub(super) struct Flaw {
    pub(super) at: Place,
    pub(super) key: String,
    pub(super) cause: String,
    pub(super) cure: &'static str,
}

impl Flaw {
    fn new(at: Place, cause: impl Into<String>, cure: &'static str) -> Self {
        Self { at, key: String::new(), cause: cause.into(), cure }
    }
}

/// The document in `text`, and flaws that do not keep the rest from being read.
///
/// # Errors
/// The flaw behind which nothing can be understood.
pub(super) fn load(text: &str) -> Result<(Node, Vec<Flaw>), Flaw> {
    let mut loader = Loader {
        nodes: 0,
        bytes: 0,
        open: Vec::new(),
        anchors: HashMap::new(),
        flaws: Vec::new(),
        root: None,
    };
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(text);
    let mut documents = 0;
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| {
            let info = error.info().chars().take(200).collect::<String>();
            Flaw::new(
                (*error.marker()).into(),
                format!("this is no YAML: {info}"),
                "mind indentation, colons and quotes",
            )
        })?;
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
            if documents > 1 {
                return Err(Flaw::new(
                    span.start.into(),
                    "a second YAML document starts here",
                    "keep one document, or deploy each from a file of its own",
                ));
            }
        }
        loader.take(event, span)?;
    }
    match loader.root {
        Some(root) => Ok((root, loader.flaws)),
        None => {
            Err(Flaw::new(Place::START, "the file is empty", "write `services:` with at least one service"))
        }
    }
}

struct Loader {
    nodes: usize,
    bytes: usize,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    flaws: Vec<Flaw>,
    root: Option<Node>,
}

/// A collection whose end has not come yet.
struct Open {
    at: Place,
    anchor: usize,
    value: OpenValue,
}

enum OpenValue {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, merged: Vec<Node>, key: Option<MapKey> },
}

enum MapKey {
    Named(Key),
    Merge,
    /// A list or a map: told as a flaw, its value is dropped.
    Bad,
}

impl Loader {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Flaw> {
        let at = Place::from(span.start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(at, tag);
                self.count(at, 1, text.len())?;
                if text.contains('\0') {
                    self.flaws.push(Flaw::new(at, "the text has a NUL character", "remove it"));
                }
                let value = Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                self.put(Node { at, value }, anchor);
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(at, tag);
                self.open(at, anchor, OpenValue::List(Vec::new()))?;
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(at, tag);
                let value = OpenValue::Map { entries: Vec::new(), merged: Vec::new(), key: None };
                self.open(at, anchor, value)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(at, anchor)?,
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn refuse_tag(&mut self, at: Place, tag: Option<Cow<'_, Tag>>) {
        if let Some(tag) = tag {
            let tag = format!("{}{}", tag.handle, tag.suffix).chars().take(80).collect::<String>();
            self.flaws.push(Flaw::new(at, format!("the YAML tag {tag:?} is not supported"), "remove it"));
        }
    }

    /// Bounds what aliases can blow up: they are written out, and count each time.
    fn count(&mut self, at: Place, nodes: usize, bytes: usize) -> Result<(), Flaw> {
        self.nodes = self.nodes.saturating_add(nodes);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.nodes > MAX_NODES || self.bytes > super::MAX_BYTES {
            return Err(Flaw::new(
                at,
                format!(
                    "the file has more than {MAX_NODES} values or 1 MiB of text with all aliases written out"
                ),
                "split the app, or use fewer aliases",
            ));
        }
        Ok(())
    }

    fn open(&mut self, at: Place, anchor: usize, value: OpenValue) -> Result<(), Flaw> {
        self.count(at, 1, 0)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(at));
        }
        self.open.push(Open { at, anchor, value });
        Ok(())
    }

    fn close(&mut self) {
        let Some(Open { at, anchor, value }) = self.open.pop() else { return };
        let value = match value {
            OpenValue::List(list) => Value::List(list),
            OpenValue::Map { entries, merged, .. } => Value::Map(self.merge(entries, merged)),
        };
        self.put(Node { at, value }, anchor);
    }

    fn alias(&mut self, at: Place, anchor: usize) -> Result<(), Flaw> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return Err(Flaw::new(at, "this alias contains itself", "write the value out"));
        };
        let size = size(&node);
        if self.open.len() + size.depth > MAX_DEPTH {
            return Err(too_deep(at));
        }
        self.count(at, size.nodes, size.bytes)?;
        self.put(node, 0);
        Ok(())
    }

    /// Gives `node` to the innermost open collection.
    fn put(&mut self, node: Node, anchor: usize) {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut open.value {
            OpenValue::List(list) => list.push(node),
            OpenValue::Map { entries, merged, key } => match key.take() {
                None => *key = Some(map_key(node, &mut self.flaws)),
                Some(MapKey::Merge) => merged.push(node),
                Some(MapKey::Bad) => {}
                Some(MapKey::Named(named)) => {
                    match entries.iter().find(|(other, _)| other.text == named.text) {
                        Some((first, _)) => self.flaws.push(Flaw {
                            at: named.at,
                            key: named.text.chars().take(80).collect(),
                            cause: format!("this key is here twice, first at line {}", first.at.line),
                            cure: "keep one of them",
                        }),
                        None => entries.push((named, node)),
                    }
                }
            },
        }
    }

    /// `<<`: keys of other maps, where the map itself lacks them (YAML 1.1's merge key; Compose files use it).
    fn merge(&mut self, mut entries: Vec<(Key, Node)>, merged: Vec<Node>) -> Vec<(Key, Node)> {
        let flat = merged.into_iter().flat_map(|node| match node.value {
            Value::List(list) => list,
            _ => vec![node],
        });
        for node in flat {
            match node.value {
                Value::Map(map) => {
                    for (key, value) in map {
                        if entries.iter().all(|(own, _)| own.text != key.text) {
                            entries.push((key, value));
                        }
                    }
                }
                _ => self.flaws.push(Flaw::new(
                    node.at,
                    "`<<` can merge maps only",
                    "give it a map or a list of maps",
                )),
            }
        }
        entries
    }
}

fn map_key(node: Node, flaws: &mut Vec<Flaw>) -> MapKey {
    match node.value {
        Value::Scalar { text, plain: true } if text == "<<" => MapKey::Merge,
        Value::Scalar { text, .. } => MapKey::Named(Key { at: node.at, text }),
        Value::List(_) | Value::Map(_) => {
            flaws.push(Flaw::new(node.at, "a key of a map must be a text", "write a name before the colon"));
            MapKey::Bad
        }
    }
}

fn too_deep(at: Place) -> Flaw {
    Flaw::new(at, format!("the file is nested more than {MAX_DEPTH} deep"), "flatten it")
}

struct Size {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

fn size(node: &Node) -> Size {
    let children: Vec<(usize, Size)> = match &node.value {
        Value::Scalar { text, .. } => return Size { nodes: 1, bytes: text.len(), depth: 0 },
        Value::List(list) => list.iter().map(|node| (0, size(node))).collect(),
        Value::Map(map) => map.iter().map(|(key, node)| (key.text.len(), size(node))).collect(),
    };
    let depth = children.iter().map(|(_, size)| size.depth).max().unwrap_or(0) + 1;
    let total = |part: fn(&(usize, Size)) -> usize| children.iter().map(part).sum::<usize>();
    Size { nodes: 1 + total(|(_, size)| size.nodes), bytes: total(|(key, size)| key + size.bytes), depth }
}
