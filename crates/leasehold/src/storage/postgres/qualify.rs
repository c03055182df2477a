//! Writes out which functions, operators and types a statement means, so that nothing in it depends on `search_path`.
//!
//! The files name them as everybody does: `clock_timestamp()`, `a = b`, `x::text`. What is sent says
//! `pg_catalog.clock_timestamp()`, `a operator(pg_catalog.=) b` and `x::pg_catalog.text`. All operators that are written
//! so bind equally tightly: hence the files put in parentheses what their own rules would tell, and use no syntax that
//! looks an operator up by its bare name (`between`, `in`, `like`, `case x when`). The tests below insist on both.

/// Words that are followed by a parenthesis and are no functions, or none that is looked up.
const SYNTAX: [&str; 7] = ["any", "array", "coalesce", "exists", "greatest", "least", "operator"];
/// Names of types that the grammar knows, which are not looked up.
const TYPES: [&str; 4] = ["bigint", "boolean", "int", "interval"];
/// What operators are made of.
const OPERATOR: &[u8] = b"+-*/<>=~!@#%^&|";

/// A piece of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A key word, a name or a number.
    Word(&'a str),
    Operator(&'a str),
    /// `=` in a `set` clause.
    Assignment,
    /// Text in quotes, a parameter, punctuation.
    Other(&'a str),
    /// White space and comments.
    Space(&'a str),
}

/// Returns the statement with each function, operator and type qualified.
pub(super) fn qualify(text: &str) -> String {
    let tokens = tokens(text);
    let mut qualified = String::with_capacity(text.len() * 2);
    let mut before = "";
    for (i, token) in tokens.iter().enumerate() {
        let is_called = matches!(tokens.get(i + 1), Some(Token::Other("(")));
        match token {
            Token::Operator(operator) => qualified.push_str(&format!("operator(pg_catalog.{operator})")),
            Token::Word(name)
                if is_called && !SYNTAX.contains(name) && !["as", "."].contains(&before)
                    || before == "::"
                        && !TYPES.contains(name)
                        && !tokens[i + 1..].starts_with(&[Token::Other(".")]) =>
            {
                qualified.push_str("pg_catalog.");
                qualified.push_str(name);
            }
            Token::Word(text) | Token::Other(text) | Token::Space(text) => qualified.push_str(text),
            Token::Assignment => qualified.push('='),
        }
        match token {
            Token::Word(text) | Token::Other(text) | Token::Operator(text) => before = text,
            Token::Assignment => before = "=",
            Token::Space(_) => {}
        }
    }
    qualified
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    // How many parentheses are open, and at how many a `set` clause began.
    let (mut depth, mut set) = (0_usize, None);
    let mut rest = text;
    while let Some(first) = rest.bytes().next() {
        let token = match first {
            _ if rest.starts_with("--") => Token::Space(cut(rest, rest.find('\n').unwrap_or(rest.len()))),
            b if b.is_ascii_whitespace() => Token::Space(while_(rest, |b| b.is_ascii_whitespace())),
            b'\'' | b'"' => {
                let end = rest[1..].find(char::from(first)).map_or(rest.len(), |end| end + 2);
                Token::Other(cut(rest, end))
            }
            b'$' => Token::Other(cut(rest, 1 + while_(&rest[1..], |b| b.is_ascii_digit()).len())),
            b if b.is_ascii_alphanumeric() || b == b'_' => {
                let word = while_(rest, |b| b.is_ascii_alphanumeric() || b == b'_');
                match word {
                    "set" => set = Some(depth),
                    "from" | "where" | "returning" if set == Some(depth) => set = None,
                    _ => {}
                }
                Token::Word(word)
            }
            b':' if rest.starts_with("::") => Token::Other(cut(rest, 2)),
            b'*' if matches!(last(&tokens, 0), Some(Token::Other("." | "("))) => Token::Other(cut(rest, 1)),
            b if OPERATOR.contains(&b) => {
                let operator = while_(rest, |b| OPERATOR.contains(&b));
                let begins = matches!(last(&tokens, 1), Some(Token::Word("set") | Token::Other(",")));
                match operator {
                    "=" if set == Some(depth) && begins => Token::Assignment,
                    _ => Token::Operator(operator),
                }
            }
            _ => {
                let mark = cut(rest, rest.chars().next().map_or(1, char::len_utf8));
                match mark {
                    "(" => depth += 1,
                    ")" => {
                        depth = depth.saturating_sub(1);
                        set = set.filter(|set| *set <= depth);
                    }
                    _ => {}
                }
                Token::Other(mark)
            }
        };
        let length = match token {
            Token::Word(text) | Token::Operator(text) | Token::Other(text) | Token::Space(text) => text.len(),
            Token::Assignment => 1,
        };
        rest = &rest[length..];
        tokens.push(token);
    }
    tokens
}

/// The last token but so many that is no space.
fn last<'a>(tokens: &[Token<'a>], but: usize) -> Option<Token<'a>> {
    tokens.iter().rev().filter(|token| !matches!(token, Token::Space(_))).nth(but).copied()
}

fn cut(text: &str, end: usize) -> &str {
    &text[..end]
}

fn while_(text: &str, wanted: impl Fn(u8) -> bool) -> &str {
    cut(text, text.bytes().position(|b| !wanted(b)).unwrap_or(text.len()))
}

/// Says what in a statement would be looked up by `search_path`, or be read in another order once it is qualified.
#[cfg(test)]
pub(super) fn doubts(text: &str) -> Vec<String> {
    /// Syntax that becomes an operator of that name, wherever it is found.
    const HIDDEN: [&str; 9] =
        ["between", "in", "like", "ilike", "similar", "nullif", "distinct", "overlaps", "collate"];
    /// Words between which an expression ends.
    const ENDS: [&str; 37] = [
        "select",
        "from",
        "where",
        "and",
        "or",
        "not",
        "on",
        "case",
        "when",
        "then",
        "else",
        "end",
        "as",
        "by",
        "set",
        "with",
        "union",
        "all",
        "returning",
        "values",
        "update",
        "insert",
        "into",
        "delete",
        "limit",
        "offset",
        "order",
        "join",
        "left",
        "cross",
        "lateral",
        "is",
        "conflict",
        "do",
        "for",
        "null",
        "any",
    ];
    let is_comma = |token: &Token<'_>| *token == Token::Other(",");
    let mut doubts = Vec::new();
    let mut open: Vec<Option<&str>> = vec![None];
    let all: Vec<_> = tokens(text).into_iter().filter(|token| !matches!(token, Token::Space(_))).collect();
    for (i, token) in all.iter().enumerate() {
        let near = || format!("{:?}", &all[i.saturating_sub(4)..std::cmp::min(i + 4, all.len())]);
        match token {
            Token::Other("(" | "[") => open.push(None),
            Token::Other(")" | "]") => drop(open.pop()),
            Token::Other("," | ";") | Token::Assignment => *open.last_mut().expect("balanced") = None,
            Token::Operator(operator) => {
                let before = open.last_mut().expect("balanced").replace(operator);
                if before.is_some_and(|before| before != *operator || !["||", "+"].contains(operator)) {
                    doubts.push(format!("two operators and no parentheses: {}", near()));
                }
            }
            Token::Word(word) => {
                if HIDDEN.contains(word) || *word == "using" && all.get(i + 1) == Some(&Token::Other("(")) {
                    doubts.push(format!("an operator without a sign: {}", near()));
                }
                if *word == "case" && all.get(i + 1) != Some(&Token::Word("when")) {
                    doubts.push(format!("a comparison without a sign: {}", near()));
                }
                let is_called = all.get(i + 1) == Some(&Token::Other("("));
                if *word == "unnest"
                    && all[i..].iter().take_while(|token| **token != Token::Other(")")).any(is_comma)
                {
                    doubts.push(format!("a special case of one name: {}", near()));
                }
                let is_qualified = i > 1 && all[i - 2..i] == [Token::Word("pg_catalog"), Token::Other(".")];
                if word.starts_with("pg_") && *word != "pg_catalog" && !is_called && !is_qualified {
                    doubts.push(format!("a relation without its schema: {}", near()));
                }
                if ENDS.contains(word) {
                    *open.last_mut().expect("balanced") = None;
                }
            }
            Token::Other(_) | Token::Space(_) => {}
        }
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_operators_and_types_are_qualified_and_nothing_else() {
        for (text, qualified) in [
            ("a = b", "a operator(pg_catalog.=) b"),
            ("f(x) || count(*)", "pg_catalog.f(x) operator(pg_catalog.||) pg_catalog.count(*)"),
            ("coalesce(a.*, exists(select 1))", "coalesce(a.*, exists(select 1))"),
            ("$1::text[], 1::bigint", "$1::pg_catalog.text[], 1::bigint"),
            ("from f($1) as t(now) -- a = b", "from pg_catalog.f($1) as t(now) -- a = b"),
            (
                "where a = 'x = y' and \"b=c\" <> 1e6",
                "where a operator(pg_catalog.=) 'x = y' and \"b=c\" operator(pg_catalog.<>) 1e6",
            ),
            ("a = any (array(select 1))", "a operator(pg_catalog.=) any (array(select 1))"),
            ("pg_catalog.f(x)", "pg_catalog.f(x)"),
            (
                "update t set a = b, c = case when d = e then f(g = h) end where i = j",
                "update t set a = b, c = case when d operator(pg_catalog.=) e then \
                 pg_catalog.f(g operator(pg_catalog.=) h) end where i operator(pg_catalog.=) j",
            ),
        ] {
            assert_eq!(qualify(text), qualified);
        }
    }

    #[test]
    fn what_would_be_read_otherwise_is_found() {
        for text in [
            "a = b + c",
            "a - b - c",
            "a between b and c",
            "a in (b)",
            "case a when b then c end",
            "select from pg_class",
            "select from unnest(a, b)",
        ] {
            assert_eq!(doubts(text).len(), 1, "{text}");
        }
        for text in
            ["a = (b + c) and d = e", "a || b || c", "case when a = b then c = d end", "f(a = b, c = d)"]
        {
            assert_eq!(doubts(text), Vec::<String>::new(), "{text}");
        }
    }
}
