//! The modules of this crate import in one direction, which `docs/architecture.md` draws under *Layers*.
//!
//! This test reads that drawing, and every `crate::`, `super::` and `self::` path of the sources. It fails if a module
//! is not in the drawing, if a layer imports from one that its line does not list, or if modules import in a circle.
//! A file and the folder of its name are one module: what stands in the folder is a private part of the file.
//! Re-exports count where the name is used. Tests do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_import_follows_the_drawing() {
    let (drawing, sources) = (Drawing::read(), Sources::read());
    let imports = sources.imports();
    assert!(imports.len() > 50, "only {} files import something", imports.len());
    let found = drawing.violations(&imports, &sources);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn no_modules_import_in_a_circle() {
    let imports = Sources::read().imports();
    let found = circles(&imports);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn the_drawing_has_every_module_once_and_points_down() {
    let (drawing, sources) = (Drawing::read(), Sources::read());
    let mut drawn = BTreeSet::new();
    for (place, layer) in drawing.0.iter().enumerate() {
        for module in &layer.modules {
            assert!(drawn.insert(module.clone()), "{module} is drawn twice");
            assert!(sources.0.contains_key(module), "there is no module {module}");
        }
        for below in &layer.imports {
            let at = drawing.0.iter().position(|other| other.name == *below);
            assert!(at.is_some_and(|at| at > place), "`{below}` is not drawn below `{}`", layer.name);
        }
    }
}

#[test]
fn a_backward_import_and_a_circle_are_found() {
    let (drawing, clean) = (Drawing::read(), Sources::read());
    let planted = |path: &str, line: &str| {
        let mut sources = clean.clone();
        let file = sources.0.get_mut(path).expect("a file");
        file.paths.extend(Parsed::new(path, line).paths);
        file.words.extend(Parsed::new(path, line).words);
        file.used.extend(Parsed::new(path, line).used);
        sources
    };
    let found = |sources: &Sources| {
        let imports = sources.imports();
        (drawing.violations(&imports, sources).len(), circles(&imports).len())
    };
    let (violations, all_circles) = found(&clean);
    // Each of these lines is against the direction of the drawing.
    for (path, line) in [
        ("error", "use crate::event::Event;"),
        ("storage", "use super::locks::Locks;"),
        ("storage/memory", "fn f() -> crate::Locks { crate::engine::start() }"),
        ("engine/lease", "use {std::fmt, crate::{guard::Guard, clock::Moment}};"),
        ("engine/actor/leases", "use crate::storage::registry;"),
        ("options", "mod a { mod b { type L = super::super::super::lock::Lock; } }"),
        ("storage/redis/link", "use crate::storage::postgres::Config;"),
        ("storage/net", "use super::redis::Redis;"),
    ] {
        assert!(found(&planted(path, line)).0 > violations, "{path}: `{line}` was not found");
    }
    // Each of these closes a circle within one layer.
    for (path, line) in [
        ("engine/timing", "use super::lease::Lease;"),
        ("engine/handle", "use crate::engine::Home; fn f(_: Home) {}"),
        ("storage/name", "use crate::error::Error;"),
        ("storage/owner", "use super::holder::Holder;"),
        ("storage/any", "fn f() { super::super::storage::registry::parse(); }"),
        ("storage/postgres/config", "use super::Postgres;"),
        ("storage/redis/keys", "use super::Redis;"),
        ("storage/sqlite/config", "use super::connect::connect;"),
        ("storage/net/clock", "use super::server::Server;"),
    ] {
        let sources = planted(path, line);
        assert!(found(&sources).1 > all_circles, "{path}: `{line}` was not found");
    }
    // None of these is an import.
    let imports = clean.imports();
    for line in [
        "// use crate::locks::Locks;",
        "/* crate::locks */ const A: &str = \"use crate::locks::Locks;\";",
        "const A: &str = r#\"use \"crate::locks::Locks;\"#; const B: char = '\"';",
        "#[cfg(test)] mod tests { use crate::locks::Locks; fn f() { crate::guard::f() } }",
        "#[cfg(test)] use crate::locks::Locks;",
        "mod inner { use super::Error; pub(in crate::locks) fn f<'a>(_: &'a str) {} }",
    ] {
        assert_eq!(planted("error", line).imports(), imports, "{line}");
    }
}

/// The layers of the drawing, from the top.
struct Drawing(Vec<Layer>);

struct Layer {
    name: String,
    modules: Vec<String>,
    /// The layers that it may import from, besides itself.
    imports: Vec<String>,
}

impl Drawing {
    /// Reads the code block under the heading *Layers*: of each line the name of a layer, its modules and, behind the
    /// arrow, the layers that it imports from.
    fn read() -> Self {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/architecture.md");
        let page = fs::read_to_string(page).expect("a readable page");
        let (_, section) = page.split_once("\n## Layers\n").expect("a section");
        let block = section.split("```").nth(1).expect("a drawing");
        let mut layers: Vec<Layer> = Vec::new();
        for (name, rest) in block.lines().filter_map(|line| line.split_once('│')) {
            let (modules, imports) = rest.split_once('▶').unwrap_or((rest, ""));
            let list = |text: &str, by: &str| -> Vec<_> {
                let items = text.split(by).map(str::trim).filter(|item| !item.is_empty());
                items.map(str::to_owned).collect()
            };
            let (name, modules) = (name.trim().to_owned(), list(modules, " "));
            match layers.last_mut().filter(|_| name.is_empty()) {
                Some(layer) => layer.modules.extend(modules),
                None => layers.push(Layer { name, modules, imports: list(imports, ",") }),
            }
        }
        assert!(layers.len() > 4, "only {} layers were recognized", layers.len());
        Self(layers)
    }

    /// Returns the layer of a module: that of its own line, or of the nearest folder that it is in.
    fn layer(&self, module: &str) -> Option<&Layer> {
        let owned = |part: &str| self.0.iter().find(|layer| layer.modules.iter().any(|known| known == part));
        let mut part = module;
        loop {
            // `storage` is the contract alone, not all that is in its folder.
            if let Some(layer) = owned(part).filter(|_| part == module || part != "storage") {
                return Some(layer);
            }
            part = part.rsplit_once('/')?.0;
        }
    }

    fn violations(&self, imports: &Imports, sources: &Sources) -> Vec<String> {
        let undrawn = sources.0.keys().filter(|module| self.layer(module).is_none());
        let mut found: Vec<_> = undrawn.map(|module| format!("{module} is not in the drawing")).collect();
        for (from, to) in imports.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to))) {
            let (Some(above), Some(below)) = (self.layer(from), self.layer(to)) else { continue };
            if above.name != below.name && !above.imports.contains(&below.name) {
                found.push(format!("{from} ({}) imports {to} ({})", above.name, below.name));
            }
        }
        // Storages know nothing of each other.
        let storage = |module: &str| {
            module.strip_prefix("storage/").map(|rest| rest.split('/').next().map(str::to_owned))
        };
        for (from, to) in imports.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to))) {
            let both =
                [from, to].map(|module| self.layer(module).is_some_and(|layer| layer.name == "storages"));
            if both == [true, true] && storage(from) != storage(to) {
                found.push(format!("{from} imports from another storage, {to}"));
            }
        }
        found
    }
}

/// Which modules each module imports from.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// Returns each smallest circle, as the path through it. A path begins with its first module
/// in alphabetical order.
fn circles(imports: &Imports) -> Vec<String> {
    // A file and the folder of its name are one module, as are the files in it.
    let whole = |module: &str| -> String {
        let parts: Vec<_> = module.split('/').collect();
        let folder =
            (1..parts.len()).map(|n| parts[..n].join("/")).find(|folder| source(folder, ".rs").exists());
        folder.unwrap_or_else(|| module.to_owned())
    };
    let mut merged = Imports::new();
    for (from, all) in imports {
        let from = whole(from);
        let all = all.iter().map(|to| whole(to)).filter(|to| *to != from);
        merged.entry(from.clone()).or_default().extend(all);
    }
    let mut found = BTreeSet::new();
    for start in merged.keys() {
        if let Some(path) = way_back(&merged, start) {
            let first = path.iter().enumerate().min_by_key(|(_, module)| *module).map_or(0, |(at, _)| at);
            let turned: Vec<_> = path[first..].iter().chain(&path[..=first]).map(String::as_str).collect();
            found.insert(turned.join(" imports "));
        }
    }
    found.into_iter().collect()
}

/// Returns the shortest way from a module back to itself.
fn way_back(imports: &Imports, start: &str) -> Option<Vec<String>> {
    let (mut seen, mut ways) = (BTreeSet::new(), vec![vec![start.to_owned()]]);
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in way.last().and_then(|last| imports.get(last)).into_iter().flatten() {
                if next == start {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push([way.clone(), vec![next.clone()]].concat());
                }
            }
        }
        ways = longer;
    }
    None
}

/// What the sources import, by their module: `lib`, `storage` for `storage/mod.rs`, `storage/any`.
#[derive(Clone)]
struct Sources(BTreeMap<String, Parsed>);

impl Sources {
    fn read() -> Self {
        let mut all = BTreeMap::new();
        read_folder(&source("", ""), "", &mut all);
        // Files that only tests compile.
        let tests: Vec<_> = all
            .iter()
            .flat_map(|(module, text)| {
                let tests = text.split("#[cfg(test)]").skip(1);
                let names = tests.filter_map(|rest| rest.trim_start().strip_prefix("mod ")?.split_once(';'));
                names.map(|(name, _)| join(&folder_of(module), name)).collect::<Vec<_>>()
            })
            .collect();
        let is_test =
            |module: &str| tests.iter().any(|test| module == test || module.starts_with(&format!("{test}/")));
        let sources = all.into_iter().filter(|(module, _)| !is_test(module));
        Self(sources.map(|(module, text)| (module.clone(), Parsed::new(&module, &text))).collect())
    }

    fn imports(&self) -> Imports {
        let mut imports = Imports::new();
        for (module, file) in &self.0 {
            let exported = file.exports.iter().filter(|(name, _)| file.used.contains(*name));
            let exported = exported.map(|(_, path)| path.clone());
            let children = file.words.iter().map(|word| join(&folder_of(module), word));
            let children = children.filter(|child| module != "lib" && self.0.contains_key(child));
            let children = children.map(|child| child.split('/').map(str::to_owned).collect());
            for path in file.paths.iter().cloned().chain(exported).chain(children) {
                if let Some(to) = self.resolve(path).filter(|to| to != module) {
                    imports.entry(module.clone()).or_default().insert(to);
                }
            }
        }
        imports
    }

    /// Returns the module that a path leads into: where its item is declared, behind re-exports.
    fn resolve(&self, mut path: Vec<String>) -> Option<String> {
        for _ in 0..8 {
            let depth =
                (1..=path.len()).rev().find(|n| self.0.contains_key(&path[..*n].join("/"))).unwrap_or(0);
            let module = if depth == 0 { "lib".to_owned() } else { path[..depth].join("/") };
            match path.get(depth).and_then(|item| self.0.get(&module)?.exports.get(item)) {
                Some(target) => path = [target.clone(), path[depth + 1..].to_vec()].concat(),
                None => return Some(module),
            }
        }
        None
    }
}

/// What a file imports and re-exports. Paths are absolute, without `crate`.
#[derive(Clone, Default)]
struct Parsed {
    paths: Vec<Vec<String>>,
    exports: BTreeMap<String, Vec<String>>,
    /// The words that stand before `::` at the beginning of a path.
    words: BTreeSet<String>,
    /// The words outside of imports. A name that the file re-exports and uses itself is imported, too.
    used: BTreeSet<String>,
}

impl Parsed {
    fn new(module: &str, text: &str) -> Self {
        let mut parsed = Self::default();
        let tokens = tokens(text);
        let here = if module == "lib" { Vec::new() } else { module.split('/').map(str::to_owned).collect() };
        parsed.items(&tokens, &here);
        parsed.used = without_uses(&tokens);
        parsed
    }

    fn items(&mut self, tokens: &[String], here: &[String]) {
        let (mut at, mut public) = (0, false);
        while at < tokens.len() {
            let next = |n: usize| tokens.get(at + n).map_or("", String::as_str);
            let (now, was_public) = (tokens[at].as_str(), std::mem::take(&mut public));
            match (now, next(1)) {
                ("#", "[") => {
                    let end = closing(tokens, at + 1);
                    let attribute = tokens[at + 2..end].concat();
                    let is_test = attribute == "cfg(test)" || attribute.starts_with("cfg(all(test,");
                    at = if is_test { end_of_item(tokens, end + 1) } else { end + 1 };
                }
                ("pub", "(") => (at, public) = (closing(tokens, at + 1) + 1, true),
                ("pub", _) => (at, public) = (at + 1, true),
                ("mod", name) if next(2) == "{" => {
                    let end = closing(tokens, at + 2);
                    self.items(&tokens[at + 3..end], &[here, &[name.to_owned()]].concat());
                    at = end + 1;
                }
                ("use", first) if first != "<" => {
                    let end = (at..tokens.len()).find(|i| tokens[*i] == ";").unwrap_or(tokens.len());
                    for (path, name) in tree(&tokens[at + 1..end]) {
                        let Some(path) = absolute(&path, here) else { continue };
                        if was_public {
                            self.exports.insert(name, path);
                        } else {
                            self.paths.push(path);
                        }
                    }
                    at = end + 1;
                }
                // The list of storages names their modules.
                ("entry", "!") => {
                    let path = path_at(tokens, at + 3);
                    let storage = here[..here.len() - 1].to_vec();
                    self.paths.extend((path[0] != "$").then(|| [storage, path].concat()));
                    at += 3;
                }
                (_, "::") if at == 0 || tokens[at - 1] != "::" => {
                    let path = path_at(tokens, at);
                    at += 2 * path.len() - 1;
                    match absolute(&path, here) {
                        Some(path) => self.paths.push(path),
                        None => drop(self.words.insert(path[0].clone())),
                    }
                }
                _ => at += 1,
            }
        }
    }
}

/// Returns the path that begins at a token.
fn path_at(tokens: &[String], at: usize) -> Vec<String> {
    let mut path = vec![tokens[at].clone()];
    let mut rest = tokens[at + 1..].chunks_exact(2);
    while let Some([colons, word]) = rest.next()
        && colons == "::"
        && is_word(word)
    {
        path.push(word.clone());
    }
    path
}

/// Makes a path absolute. Returns `None` if it leads out of the crate, or begins with a name that was imported.
fn absolute(path: &[String], here: &[String]) -> Option<Vec<String>> {
    let supers = path.iter().take_while(|part| *part == "super").count();
    let (base, rest) = match path[0].as_str() {
        "crate" => (&here[..0], &path[1..]),
        "self" => (here, &path[1..]),
        "super" => (&here[..here.len().checked_sub(supers)?], &path[supers..]),
        _ => return None,
    };
    Some([base, rest].concat())
}

/// Returns each path of a `use` with the name that it gets.
fn tree(tokens: &[String]) -> Vec<(Vec<String>, String)> {
    let (mut all, mut path, mut at) = (Vec::new(), Vec::new(), 0);
    let mut name = None;
    while at <= tokens.len() {
        match tokens.get(at).map(String::as_str) {
            None | Some(",") => {
                if let Some(last) = path.last().cloned() {
                    all.push((std::mem::take(&mut path), name.take().unwrap_or(last)));
                }
            }
            Some("{") => {
                let end = closing(tokens, at);
                let prefix = std::mem::take(&mut path);
                for (rest, name) in tree(&tokens[at + 1..end]) {
                    let rest = if rest == ["self"] { Vec::new() } else { rest };
                    all.push(([prefix.clone(), rest].concat(), name));
                }
                at = end;
            }
            Some("as") => {
                name = tokens.get(at + 1).cloned();
                at += 1;
            }
            Some("::" | "*") => {}
            Some(word) => path.push(word.to_owned()),
        }
        at += 1;
    }
    all
}

/// Returns what stands outside of imports.
fn without_uses(tokens: &[String]) -> BTreeSet<String> {
    let mut in_use = false;
    let outside = tokens.iter().filter(|token| {
        in_use = if in_use { *token != ";" } else { *token == "use" };
        !in_use
    });
    outside.cloned().collect()
}

/// Returns where the bracket at `open` is closed.
fn closing(tokens: &[String], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

/// Returns where the item, the field or the arm that begins at `at` has ended.
fn end_of_item(tokens: &[String], mut at: usize) -> usize {
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            ";" | "," => return at + 1,
            "{" => return closing(tokens, at) + 1,
            "(" | "[" => at = closing(tokens, at) + 1,
            ")" | "]" | "}" => return at,
            "use" => return (at..tokens.len()).find(|i| tokens[*i] == ";").unwrap_or(tokens.len()) + 1,
            _ => at += 1,
        }
    }
    at
}

/// Returns the words and the signs of a source, without its comments, texts and characters.
fn tokens(text: &str) -> Vec<String> {
    let (mut all, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let skipped = skipped(rest);
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = match first {
            _ if skipped > 0 => skipped,
            _ if word > 0 => word,
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        if skipped == 0 && !first.is_whitespace() {
            all.push(rest[..length].to_owned());
        }
        rest = &rest[length..];
    }
    all
}

/// Returns the length of the comment, the text, the character or the lifetime at the beginning; 0 if there is none.
fn skipped(rest: &str) -> usize {
    let until =
        |from: usize, end: &str| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    let quoted = |from: usize, quote: char| {
        let mut escaped = false;
        let end = rest[from..].char_indices().find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        end.map_or(rest.len(), |(at, c)| from + at + c.len_utf8())
    };
    let raw = rest.strip_prefix('b').unwrap_or(rest).strip_prefix('r').map_or("", |raw| raw);
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    if rest.starts_with("//") {
        until(0, "\n")
    } else if rest.starts_with("/*") {
        until(0, "*/")
    } else if raw[hashes..].starts_with('"') {
        until(rest.len() - raw.len() + hashes + 1, &format!("\"{}", "#".repeat(hashes)))
    } else if rest.starts_with("b\"") || rest.starts_with('"') {
        quoted(rest.find('"').map_or(1, |at| at + 1), '"')
    } else if let Some(character) = rest.strip_prefix('\'') {
        let mut after = character.chars();
        let is_character = after.next() == Some('\\') || after.next() == Some('\'');
        if is_character { quoted(1, '\'') } else { 1 }
    } else {
        0
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Returns where the modules of a module are.
fn folder_of(module: &str) -> String {
    if module == "lib" { String::new() } else { module.to_owned() }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Returns the path of a source file of this crate.
fn source(module: &str, end: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(format!("{module}{end}"))
}

fn read_folder(folder: &Path, prefix: &str, all: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            read_folder(&path, &join(prefix, &name), all);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let module = if name == "mod" { prefix.to_owned() } else { join(prefix, &name) };
            all.insert(module, fs::read_to_string(&path).expect("a readable file"));
        }
    }
}
