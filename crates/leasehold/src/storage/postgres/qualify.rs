//! Prepares a statement of a `.sql` file for the server: qualifies its names, and removes comments and line breaks.
//!
//! Functions, operators and types are qualified so that nothing depends on `search_path`. The files write
//! `clock_timestamp()`, `a = b` and `x::text`; what is sent is `pg_catalog.clock_timestamp()`,
//! `a operator(pg_catalog.=) b` and `x::pg_catalog.text`. All operators that are written so have the same precedence.
//! Hence the files put in parentheses what precedence would decide. They also use no syntax that looks an operator up by
//! its bare name (`between`, `in`, `like`, `case x when`). The tests below check both.

/// Words that are followed by a parenthesis and are no functions, or none that is looked up.
const SYNTAX: [&str; 7] = ["any", "array", "coalesce", "exists", "greatest", "least", "operator"];
/// Names of types that the grammar knows, which are not looked up.
const TYPES: [&str; 4] = ["bigint", "boolean", "int", "interval"];
/// The characters of which operators consist.
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
    /// White space or a comment.
    Space(&'a str),
}

/// Returns the statement with each function, operator and type qualified, without comments, and in one line.
pub(super) fn qualify(text: &str) -> String {
    let tokens = tokens(text);
    let mut qualified = String::with_capacity(text.len() * 2);
    let (mut before, mut is_apart) = ("", false);
    for (i, token) in tokens.iter().enumerate() {
        if let Token::Space(_) = token {
            is_apart = !qualified.is_empty();
            continue;
        }
        if std::mem::take(&mut is_apart) {
            qualified.push(' ');
        }
        match token {
            Token::Operator(operator) => qualified.push_str(&format!("operator(pg_catalog.{operator})")),
            Token::Word(name) if is_looked_up(name, before, &tokens[i + 1..]) => {
                qualified.push_str("pg_catalog.");
                qualified.push_str(name);
            }
            token => qualified.push_str(token.text()),
        }
        before = token.text();
    }
    qualified
}

/// Returns `true` if the server would look for a function or a type of this name along the `search_path`.
fn is_looked_up(name: &str, before: &str, after: &[Token<'_>]) -> bool {
    let is_function = after.starts_with(&[Token::Other("(")]) && !SYNTAX.contains(&name);
    let is_type = before == "::" && !TYPES.contains(&name) && !after.starts_with(&[Token::Other(".")]);
    is_function && !["as", "."].contains(&before) || is_type
}

impl<'a> Token<'a> {
    fn text(&self) -> &'a str {
        match self {
            Self::Word(text) | Self::Operator(text) | Self::Other(text) | Self::Space(text) => text,
            Self::Assignment => "=",
        }
    }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokenizer = Tokenizer { tokens: Vec::new(), depth: 0, set: None };
    let mut rest = text;
    while let Some(first) = rest.bytes().next() {
        let token = tokenizer.next(rest, first);
        rest = &rest[token.text().len()..];
        tokenizer.tokens.push(token);
    }
    tokenizer.tokens
}

/// The tokens so far, and where the next one is.
struct Tokenizer<'a> {
    tokens: Vec<Token<'a>>,
    /// How many parentheses are open.
    depth: usize,
    /// How many were open where the current `set` clause began.
    set: Option<usize>,
}

impl<'a> Tokenizer<'a> {
    /// Reads one token from the beginning of `rest`, whose first byte is `first`.
    fn next(&mut self, rest: &'a str, first: u8) -> Token<'a> {
        match first {
            _ if rest.starts_with("--") => Token::Space(&rest[..rest.find('\n').unwrap_or(rest.len())]),
            b if b.is_ascii_whitespace() => Token::Space(leading(rest, |b| b.is_ascii_whitespace())),
            b'\'' | b'"' => {
                let end = rest[1..].find(char::from(first)).map_or(rest.len(), |end| end + 2);
                Token::Other(&rest[..end])
            }
            b'$' => Token::Other(&rest[..1 + leading(&rest[1..], |b| b.is_ascii_digit()).len()]),
            b if b.is_ascii_alphanumeric() || b == b'_' => self.word(rest),
            b':' if rest.starts_with("::") => Token::Other(&rest[..2]),
            b'*' if matches!(self.last(0), Some(Token::Other("." | "("))) => Token::Other(&rest[..1]),
            b if OPERATOR.contains(&b) => self.operator(rest),
            _ => self.punctuation(rest),
        }
    }

    fn word(&mut self, rest: &'a str) -> Token<'a> {
        let word = leading(rest, |b| b.is_ascii_alphanumeric() || b == b'_');
        match word {
            "set" => self.set = Some(self.depth),
            "from" | "where" | "returning" if self.set == Some(self.depth) => self.set = None,
            _ => {}
        }
        Token::Word(word)
    }

    fn operator(&self, rest: &'a str) -> Token<'a> {
        let operator = leading(rest, |b| OPERATOR.contains(&b));
        let is_first = matches!(self.last(1), Some(Token::Word("set") | Token::Other(",")));
        match operator {
            "=" if self.set == Some(self.depth) && is_first => Token::Assignment,
            _ => Token::Operator(operator),
        }
    }

    fn punctuation(&mut self, rest: &'a str) -> Token<'a> {
        let mark = &rest[..rest.chars().next().map_or(1, char::len_utf8)];
        match mark {
            "(" => self.depth += 1,
            ")" => {
                self.depth = self.depth.saturating_sub(1);
                self.set = self.set.filter(|set| *set <= self.depth);
            }
            _ => {}
        }
        Token::Other(mark)
    }

    /// Returns the last token that is no space, without the last `skipped` of those.
    fn last(&self, skipped: usize) -> Option<Token<'a>> {
        self.tokens.iter().rev().filter(|token| !matches!(token, Token::Space(_))).nth(skipped).copied()
    }
}

/// Returns the longest beginning that consists of such bytes.
fn leading(text: &str, wanted: impl Fn(u8) -> bool) -> &str {
    &text[..text.bytes().position(|b| !wanted(b)).unwrap_or(text.len())]
}

/// Returns what in a statement the server would look up by `search_path`, or read differently once it is qualified.
#[cfg(test)]
pub(super) fn ambiguities(text: &str) -> Vec<String> {
    /// Key words at which an expression ends.
    const ENDS: &str = "select from where and or not on case when then else end as by set with union all returning \
        values update insert into delete limit offset order join left cross lateral is conflict do for null any";
    let all: Vec<_> = tokens(text).into_iter().filter(|token| !matches!(token, Token::Space(_))).collect();
    let mut found = Vec::new();
    // The last operator of the current expression, in each open parenthesis.
    let mut open: Vec<Option<&str>> = vec![None];
    for (i, token) in all.iter().enumerate() {
        let mut complain = |what: &str| {
            let near = &all[i.saturating_sub(4)..std::cmp::min(i + 4, all.len())];
            found.push(format!("{what}: {near:?}"));
        };
        match token {
            Token::Other("(" | "[") => open.push(None),
            Token::Other(")" | "]") => drop(open.pop()),
            Token::Other("," | ";") | Token::Assignment => *open.last_mut().expect("balanced") = None,
            Token::Operator(operator) => {
                let before = open.last_mut().expect("balanced").replace(operator);
                if before.is_some_and(|before| before != *operator || !["||", "+"].contains(operator)) {
                    complain("two operators and no parentheses");
                }
            }
            Token::Word(word) => {
                if let Some(what) = ambiguity_of_word(word, &all[..i], &all[i + 1..]) {
                    complain(what);
                }
                if ENDS.split(' ').any(|end| end == *word) {
                    *open.last_mut().expect("balanced") = None;
                }
            }
            Token::Other(_) | Token::Space(_) => {}
        }
    }
    found
}

#[cfg(test)]
fn ambiguity_of_word(word: &str, before: &[Token<'_>], after: &[Token<'_>]) -> Option<&'static str> {
    /// Key words that stand for an operator, which is looked up.
    const HIDDEN: [&str; 9] =
        ["between", "in", "like", "ilike", "similar", "nullif", "distinct", "overlaps", "collate"];
    let is_called = after.starts_with(&[Token::Other("(")]);
    let is_qualified = before.ends_with(&[Token::Word("pg_catalog"), Token::Other(".")]);
    let mut parameters = after.iter().take_while(|token| **token != Token::Other(")"));
    if HIDDEN.contains(&word) || word == "using" && is_called {
        Some("an operator without a sign")
    } else if word == "case" && !after.starts_with(&[Token::Word("when")]) {
        Some("a comparison without a sign")
    } else if word == "unnest" && parameters.any(|token| *token == Token::Other(",")) {
        Some("a special case of one name")
    } else if word.starts_with("pg_") && word != "pg_catalog" && !is_called && !is_qualified {
        Some("a relation without its schema")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_functions_operators_and_types_are_qualified() {
        for (text, qualified) in [
            ("a = b", "a operator(pg_catalog.=) b"),
            ("f(x) || count(*)", "pg_catalog.f(x) operator(pg_catalog.||) pg_catalog.count(*)"),
            ("coalesce(a.*, exists(select 1))", "coalesce(a.*, exists(select 1))"),
            ("$1::text[], 1::bigint", "$1::pg_catalog.text[], 1::bigint"),
            ("from f($1) as t(now) -- a = b", "from pg_catalog.f($1) as t(now)"),
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
    fn comments_and_line_breaks_are_removed_and_quoted_text_is_kept() {
        let text =
            "-- A header.\n--  1. a = b\nselect '-- no comment',  -- its end\n    $1\n-- And a footer.\n";
        assert_eq!(qualify(text), "select '-- no comment', $1");
        // Nothing within quotes is touched, not even a line break or a doubled quote.
        for quoted in ["'a\n  -- b''c -- d'", "\"a\n  -- b\"\"c -- d\"", "'say \"x\" -- y'"] {
            assert_eq!(qualify(&format!("select {quoted}  -- a 'comment'\n")), format!("select {quoted}"));
        }
        assert_eq!(qualify("select 1;\n\n-- Another.\nselect 2;\n"), "select 1; select 2;");
    }

    #[test]
    fn ambiguous_syntax_is_found() {
        for text in [
            "a = b + c",
            "a - b - c",
            "a between b and c",
            "a in (b)",
            "case a when b then c end",
            "select from pg_class",
            "select from unnest(a, b)",
        ] {
            assert_eq!(ambiguities(text).len(), 1, "{text}");
        }
        for text in
            ["a = (b + c) and d = e", "a || b || c", "case when a = b then c = d end", "f(a = b, c = d)"]
        {
            assert_eq!(ambiguities(text), Vec::<String>::new(), "{text}");
        }
    }
}
