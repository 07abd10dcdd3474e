//! TOML tables read key by key: everything keeps its place, every problem is collected, every key must be known.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Problem;

/// Where a value is: a byte offset in the text, and the path of its key.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) offset: usize,
    pub(super) key: String,
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// The problems found so far in one text.
pub(super) struct Problems<'t> {
    file: &'t str,
    /// Offset of each line's first byte.
    lines: Vec<usize>,
    found: RefCell<Vec<Problem>>,
}

impl<'t> Problems<'t> {
    pub(super) fn new(file: &'t str, text: &str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file, lines, found: RefCell::default() }
    }

    fn line(&self, place: &Place) -> usize {
        self.lines.partition_point(|start| *start <= place.offset)
    }

    pub(super) fn add(&self, place: &Place, message: impl Into<String>) {
        let line = self.line(place);
        let key = place.key.clone();
        self.found.borrow_mut().push(Problem {
            file: self.file.to_owned(),
            line,
            key,
            message: message.into(),
        });
    }

    /// All of them, in the text's order.
    pub(super) fn into_inner(self) -> Vec<Problem> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|p| p.line);
        found
    }
}

/// One table. Each key that is asked for is known; [`Section::finish`] reports the others.
pub(super) struct Section<'d> {
    pub(super) place: Place,
    table: Option<&'d DeTable<'d>>,
    problems: &'d Problems<'d>,
    known: RefCell<Vec<&'static str>>,
    failed: RefCell<Vec<String>>,
}

impl<'d> Section<'d> {
    pub(super) fn root(table: &'d Spanned<DeTable<'d>>, problems: &'d Problems<'d>) -> Self {
        Self::new(Place::default(), Some(table.get_ref()), problems)
    }

    fn new(place: Place, table: Option<&'d DeTable<'d>>, problems: &'d Problems<'d>) -> Self {
        Self { place, table, problems, known: RefCell::default(), failed: RefCell::default() }
    }

    /// Reports a problem of the value at `place` of this table.
    pub(super) fn fail(&self, place: &Place, message: impl Into<String>) {
        self.failed.borrow_mut().push(place.key.clone());
        self.problems.add(place, message);
    }

    /// A place as `file:line`.
    pub(super) fn file_and_line(&self, place: &Place) -> String {
        format!("{}:{}", self.problems.file, self.problems.line(place))
    }

    /// Place of a key of this table, present or not.
    pub(super) fn place_of(&self, key: &str) -> Place {
        let path =
            if self.place.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place.key) };
        let offset =
            self.table.and_then(|t| t.get_key_value(key)).map_or(self.place.offset, |(k, _)| k.span().start);
        Place { offset, key: path }
    }

    fn raw(&self, key: &'static str) -> Option<Placed<&'d DeValue<'d>>> {
        self.known.borrow_mut().push(key);
        let value = self.table?.get(key)?;
        Some(Placed { value: value.get_ref(), place: self.place_of(key) })
    }

    /// Was a problem found in any of these keys?
    pub(super) fn failed_in(&self, keys: &[&str]) -> bool {
        let paths: Vec<_> = keys.iter().map(|key| format!("{}.{key}", self.place.key)).collect();
        self.failed.borrow().iter().any(|failed| paths.iter().any(|path| failed.starts_with(path)))
    }

    /// Reports keys that nobody asked for.
    pub(super) fn finish(&self) {
        let known = self.known.borrow();
        for key in self.table.into_iter().flat_map(|t| t.keys()) {
            if known.iter().any(|k| *k == key.get_ref()) {
                continue;
            }
            let near = known.iter().min_by_key(|k| strsim::damerau_levenshtein(k, key.get_ref()));
            let mend = match near {
                Some(near) if strsim::damerau_levenshtein(near, key.get_ref()) <= 2 => {
                    format!("did you mean {near:?}?")
                }
                _ => format!("known here are {}", known.join(", ")),
            };
            self.fail(&self.place_of(key.get_ref()), format!("unknown key; {mend}"));
        }
    }

    /// A `[table]`; an absent one reads as empty.
    pub(super) fn section(&self, key: &'static str) -> Section<'d> {
        let raw = self.raw(key);
        let table = raw.as_ref().and_then(|raw| {
            let table = raw.value.as_table();
            if table.is_none() {
                self.fail(&raw.place, format!("must be a table, written [{key}]"));
            }
            table
        });
        Section::new(raw.map_or_else(|| self.place_of(key), |raw| raw.place), table, self.problems)
    }

    /// The `[[tables]]` under a key.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Section<'d>> {
        let Some(raw) = self.raw(key) else { return Vec::new() };
        let form = || format!("must be a list of tables, each written [[{key}]]");
        let Some(array) = raw.value.as_array() else {
            self.fail(&raw.place, form());
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, item) in array.iter().enumerate() {
            let place = Place { offset: item.span().start, key: format!("{key}[{index}]") };
            match item.get_ref().as_table() {
                Some(table) => sections.push(Section::new(place, Some(table), self.problems)),
                None => self.fail(&place, form()),
            }
        }
        sections
    }

    /// A value that must be there.
    pub(super) fn required<T>(&self, key: &str, value: Option<Placed<T>>) -> Option<Placed<T>> {
        if value.is_none() && !self.table.is_some_and(|t| t.contains_key(key)) {
            self.fail(&self.place_of(key), "is missing");
        }
        value
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &'static str) -> Option<bool> {
        let raw = self.raw(key)?;
        let value = raw.value.as_bool();
        if value.is_none() {
            self.fail(&raw.place, format!("must be true or false, not {}", raw.value.type_str()));
        }
        value
    }

    /// A whole number within `range`.
    pub(super) fn number<N>(&self, key: &'static str, range: RangeInclusive<N>) -> Option<N>
    where
        N: TryFrom<i64> + PartialOrd + Display,
    {
        let raw = self.raw(key)?;
        self.integer(&raw.place, raw.value, &range)
    }

    fn integer<N>(&self, place: &Place, value: &DeValue<'_>, range: &RangeInclusive<N>) -> Option<N>
    where
        N: TryFrom<i64> + PartialOrd + Display,
    {
        let number = value
            .as_integer()
            .and_then(|i| i64::from_str_radix(i.as_str(), i.radix()).ok())
            .and_then(|i| N::try_from(i).ok())
            .filter(|n| range.contains(n));
        if number.is_none() {
            self.fail(place, format!("must be a whole number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// A whole number within `range`, made into a value by `of`, or a text that `parse` takes.
    pub(super) fn number_or_text<N, T, E: Display>(
        &self,
        key: &'static str,
        range: RangeInclusive<N>,
        of: impl Fn(N) -> T,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T>
    where
        N: TryFrom<i64> + PartialOrd + Display,
    {
        let raw = self.raw(key)?;
        if raw.value.as_str().is_some() {
            return self.item(raw.place, raw.value, &parse).map(|placed| placed.value);
        }
        self.integer(&raw.place, raw.value, &range).map(of)
    }

    /// A text, made into a value by `parse`, whose error says what is wrong with it.
    pub(super) fn text<T, E: Display>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Placed<T>> {
        let raw = self.raw(key)?;
        self.item(raw.place, raw.value, &parse)
    }

    fn item<T, E: Display>(
        &self,
        place: Place,
        value: &DeValue<'_>,
        parse: &impl Fn(&str) -> Result<T, E>,
    ) -> Option<Placed<T>> {
        let Some(text) = value.as_str() else {
            self.fail(&place, format!("must be a text in quotes, not {}", value.type_str()));
            return None;
        };
        match parse(text) {
            Ok(value) => Some(Placed { value, place }),
            Err(message) => {
                self.fail(&place, message.to_string());
                None
            }
        }
    }

    /// A list of texts; an absent one is empty. What cannot be read is reported and left out.
    pub(super) fn list<T, E: Display>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<Placed<T>> {
        let Some(raw) = self.raw(key) else { return Vec::new() };
        let Some(array) = raw.value.as_array() else {
            self.fail(
                &raw.place,
                format!("must be a list of texts, [\"...\"], not {}", raw.value.type_str()),
            );
            return Vec::new();
        };
        let item = |(index, value): (usize, &Spanned<DeValue<'_>>)| {
            let place = Place { offset: value.span().start, key: format!("{}[{index}]", raw.place.key) };
            self.item(place, value.get_ref(), &parse)
        };
        array.iter().enumerate().filter_map(item).collect()
    }

    /// Reports a list that is absent or has nothing in it; `mend` says what belongs there.
    pub(super) fn require_items(&self, key: &str, mend: &str) {
        let defect = match self.table.and_then(|t| t.get(key)).map(|v| v.get_ref().as_array()) {
            None => "is missing",
            Some(Some(array)) if array.is_empty() => "is empty",
            Some(_) => return,
        };
        self.fail(&self.place_of(key), format!("{defect}; {mend}"));
    }

    /// A text or a list of texts.
    pub(super) fn one_or_list<T, E: Display>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<Placed<T>> {
        match self.table.and_then(|t| t.get(key)).map(|v| v.get_ref().is_str()) {
            Some(true) => self.text(key, parse).into_iter().collect(),
            _ => self.list(key, parse),
        }
    }

    /// A list of whole numbers, or none where the text `word` stands.
    pub(super) fn numbers_or(
        &self,
        key: &'static str,
        word: &str,
        range: RangeInclusive<usize>,
    ) -> Option<Placed<Option<Vec<usize>>>> {
        let raw = self.raw(key)?;
        if raw.value.as_str() == Some(word) {
            return Some(Placed { value: None, place: raw.place });
        }
        let Some(array) = raw.value.as_array() else {
            self.fail(&raw.place, format!("must be {word:?} or a list of whole numbers such as [2, 3]"));
            return None;
        };
        let numbers = array.iter().filter_map(|v| self.integer(&raw.place, v.get_ref(), &range)).collect();
        Some(Placed { value: Some(numbers), place: raw.place })
    }
}
