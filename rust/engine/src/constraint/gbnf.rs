//! llama.cpp's grammar notation, read and written anew in Lark's. A grammar without recursion
//! becomes one expression. Of others each regular part does, and is matched as far as it goes: an answer is always one of
//! the grammar's, but not all of those are answers (behind `[ \n]*` no part finds its `\n`). Knows nothing of tokens.
use std::collections::BTreeMap;

/// Bytes of one expression at most: rules that are regular are written out where they are used.
const MAX_EXPRESSION: usize = 64 << 10;
/// Groups within groups at most.
const MAX_DEPTH: usize = 64;
/// Repetitions that may be counted.
const MAX_REPEAT: u32 = 10_000;

/// What a rule is made of.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// Characters as they stand.
    Text(String),
    /// One character, as an expression of its own.
    Class(String),
    /// Another rule.
    Rule(String),
    /// One after the other.
    Sequence(Vec<Node>),
    /// One of them.
    Choice(Vec<Node>),
    /// From so many to so many times.
    Repeat(Box<Node>, u32, Option<u32>),
}

/// A grammar in Lark's notation that means the same as `source`, whose first rule is `root`.
///
/// # Errors
/// What is wrong, and in which line.
pub(super) fn to_lark(source: &str) -> Result<String, String> {
    let rules = Reader::new(source).rules()?;
    if !rules.contains_key("root") {
        return Err("there is no rule `root`".into());
    }
    Writer::new(&rules)?.write()
}

/// Reads the notation.
struct Reader<'a> {
    rest: &'a str,
    source: &'a str,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn new(source: &'a str) -> Self {
        Self {
            rest: source,
            source,
            depth: 0,
        }
    }

    fn rules(mut self) -> Result<BTreeMap<String, Node>, String> {
        let mut rules = BTreeMap::new();
        self.blanks(true);
        while !self.rest.is_empty() {
            let name = self.name()?;
            self.blanks(false);
            if !self.take("::=") {
                return Err(self.wrong("`::=` is missing"));
            }
            self.blanks(true);
            let node = self.choice()?;
            if rules.insert(name.clone(), node).is_some() {
                return Err(self.wrong(&format!("the rule `{name}` is there twice")));
            }
            self.blanks(true);
        }
        Ok(rules)
    }

    fn wrong(&self, what: &str) -> String {
        let done = self.source.len() - self.rest.len();
        let line = self.source[..done].matches('\n').count() + 1;
        format!("line {line}: {what}")
    }

    fn take(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Skips blanks and comments, and with `lines` the ends of lines too.
    fn blanks(&mut self, lines: bool) {
        loop {
            let skip: &[char] = if lines {
                &[' ', '\t', '\r', '\n']
            } else {
                &[' ', '\t', '\r']
            };
            self.rest = self.rest.trim_start_matches(skip);
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.find('\n').map_or("", |end| &self.rest[end..]);
        }
    }

    fn name(&mut self) -> Result<String, String> {
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let end = self.rest.find(|c| !part(c)).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(self.wrong("a rule's name is missing"));
        }
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(name.to_owned())
    }

    fn choice(&mut self) -> Result<Node, String> {
        let mut options = vec![self.sequence()?];
        loop {
            // An option may begin on a line of its own.
            let before = self.rest;
            self.blanks(true);
            if !self.take("|") {
                self.rest = before;
                break;
            }
            self.blanks(true);
            options.push(self.sequence()?);
        }
        Ok(match options.len() {
            1 => options.remove(0),
            _ => Node::Choice(options),
        })
    }

    fn sequence(&mut self) -> Result<Node, String> {
        let mut nodes = Vec::new();
        loop {
            // Within a group lines do not matter; outside, a line's end ends the rule.
            self.blanks(self.depth > 0);
            match self.rest.chars().next() {
                None | Some('\n' | '|' | ')') => break,
                _ => {
                    let item = self.item()?;
                    nodes.push(self.repeated(item)?);
                }
            }
        }
        Ok(match nodes.len() {
            1 => nodes.remove(0),
            _ => Node::Sequence(nodes),
        })
    }

    fn item(&mut self) -> Result<Node, String> {
        if self.take("\"") {
            return self.text();
        }
        if self.take("[") {
            return self.class();
        }
        if self.take(".") {
            return Ok(Node::Class("(?s:.)".into()));
        }
        if self.take("(") {
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return Err(self.wrong(&format!("groups are nested deeper than {MAX_DEPTH}")));
            }
            let inner = self.choice()?;
            self.blanks(true);
            self.depth -= 1;
            return match self.take(")") {
                true => Ok(inner),
                false => Err(self.wrong("`)` is missing")),
            };
        }
        Ok(Node::Rule(self.name()?))
    }

    fn repeated(&mut self, mut node: Node) -> Result<Node, String> {
        loop {
            let (least, most) = if self.take("*") {
                (0, None)
            } else if self.take("+") {
                (1, None)
            } else if self.take("?") {
                (0, Some(1))
            } else if self.take("{") {
                self.bounds()?
            } else {
                return Ok(node);
            };
            node = Node::Repeat(Box::new(node), least, most);
        }
    }

    fn bounds(&mut self) -> Result<(u32, Option<u32>), String> {
        let end = self.rest.find('}');
        let Some(end) = end else {
            return Err(self.wrong("`}` is missing"));
        };
        let (inside, rest) = (&self.rest[..end], &self.rest[end + 1..]);
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|&n| n <= MAX_REPEAT);
        let bounds = match inside.split_once(',') {
            None => number(inside).map(|n| (n, Some(n))),
            Some((least, "")) => number(least).map(|n| (n, None)),
            Some((least, most)) => {
                let least = if least.trim().is_empty() {
                    Some(0)
                } else {
                    number(least)
                };
                least
                    .zip(number(most))
                    .map(|(least, most)| (least, Some(most)))
            }
        };
        let Some(bounds) = bounds.filter(|(least, most)| most.is_none_or(|most| most >= *least))
        else {
            return Err(self.wrong(&format!("`{{{inside}}}` is no count up to {MAX_REPEAT}")));
        };
        self.rest = rest;
        Ok(bounds)
    }

    /// One character, escapes read; and whether it was written as one.
    fn character(&mut self) -> Result<(char, bool), String> {
        let mut chars = self.rest.chars();
        let Some(c) = chars.next() else {
            return Err(self.wrong("the text does not end"));
        };
        self.rest = chars.as_str();
        if c != '\\' {
            return Ok((c, false));
        }
        let Some(kind) = chars.next() else {
            return Err(self.wrong("the text does not end"));
        };
        self.rest = chars.as_str();
        let digits = match kind {
            'n' => return Ok(('\n', true)),
            'r' => return Ok(('\r', true)),
            't' => return Ok(('\t', true)),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            '\\' | '"' | '[' | ']' | '-' | '^' | '/' => return Ok((kind, true)),
            _ => return Err(self.wrong(&format!("`\\{kind}` is no escape"))),
        };
        let code = self
            .rest
            .get(..digits)
            .and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let Some(c) = code.and_then(char::from_u32) else {
            return Err(self.wrong(&format!(
                "`\\{kind}` wants {digits} digits that are a character"
            )));
        };
        self.rest = &self.rest[digits..];
        Ok((c, true))
    }

    fn text(&mut self) -> Result<Node, String> {
        let mut text = String::new();
        loop {
            match self.character()? {
                ('"', false) => return Ok(Node::Text(text)),
                ('\n', false) => return Err(self.wrong("the text does not end in its line")),
                (c, _) => text.push(c),
            }
        }
    }

    fn class(&mut self) -> Result<Node, String> {
        let mut class = String::from(if self.take("^") { "[^" } else { "[" });
        let open = class.len();
        loop {
            let (c, escaped) = self.character()?;
            if c == ']' && !escaped {
                break;
            }
            push_code(&mut class, c);
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.rest = &self.rest[1..];
                let (last, _) = self.character()?;
                if last < c {
                    return Err(self.wrong(&format!("`{c}-{last}` is no range")));
                }
                class.push('-');
                push_code(&mut class, last);
            }
        }
        if class.len() == open {
            return Err(self.wrong("an empty class matches nothing"));
        }
        class.push(']');
        Ok(Node::Class(class))
    }
}

/// A character as no expression reads anything else into it.
fn push_code(out: &mut String, c: char) {
    match c.is_ascii_alphanumeric() {
        true => out.push(c),
        false => out.push_str(&format!("\\x{{{:X}}}", c as u32)),
    }
}

/// Writes Lark's notation.
struct Writer<'a> {
    rules: &'a BTreeMap<String, Node>,
    /// The expression of each rule that is regular.
    regular: BTreeMap<&'a str, String>,
}

impl<'a> Writer<'a> {
    fn new(rules: &'a BTreeMap<String, Node>) -> Result<Self, String> {
        let mut writer = Self {
            rules,
            regular: BTreeMap::new(),
        };
        rules.values().try_for_each(|node| writer.known(node))?;
        // From rules that use no other to those that use only these.
        loop {
            let before = writer.regular.len();
            for (name, node) in rules {
                if !writer.regular.contains_key(name.as_str())
                    && let Some(expression) = writer.expression(node)
                {
                    writer.regular.insert(name, expression);
                }
            }
            if writer.regular.len() == before {
                return Ok(writer);
            }
        }
    }

    fn known(&self, node: &Node) -> Result<(), String> {
        match node {
            Node::Rule(name) if !self.rules.contains_key(name) => {
                Err(format!("there is no rule `{name}`"))
            }
            Node::Sequence(nodes) | Node::Choice(nodes) => {
                nodes.iter().try_for_each(|node| self.known(node))
            }
            Node::Repeat(node, ..) => self.known(node),
            _ => Ok(()),
        }
    }

    /// The expression of a node; `None` = it is not regular, or too long to be written out.
    fn expression(&self, node: &Node) -> Option<String> {
        let each = |nodes: &[Node]| -> Option<Vec<String>> {
            nodes.iter().map(|node| self.expression(node)).collect()
        };
        let expression = match node {
            Node::Text(text) => {
                let mut out = String::new();
                text.chars().for_each(|c| push_code(&mut out, c));
                out
            }
            Node::Class(class) => class.clone(),
            Node::Rule(name) => self.regular.get(name.as_str())?.clone(),
            Node::Sequence(nodes) => each(nodes)?.concat(),
            Node::Choice(nodes) => format!("(?:{})", each(nodes)?.join("|")),
            Node::Repeat(node, least, most) => {
                let count = most.map_or(String::new(), |most| most.to_string());
                format!("(?:{}){{{least},{count}}}", self.expression(node)?)
            }
        };
        (expression.len() <= MAX_EXPRESSION).then_some(expression)
    }

    fn write(&self) -> Result<String, String> {
        let mut out = format!("start: {}\n", self.rule("root"));
        let names = self.rules.keys().map(String::as_str);
        for name in names.filter(|name| !self.regular.contains_key(name)) {
            let mut body = String::new();
            self.lark(&self.rules[name], &mut body);
            out.push_str(&format!("{}: {body}\n", self.rule(name)));
        }
        Ok(out)
    }

    /// How a rule is written where it is used.
    fn rule(&self, name: &str) -> String {
        match self.regular.get(name) {
            Some(expression) => lexeme(expression),
            None => {
                let at = self.rules.keys().position(|key| key == name);
                format!("rule_{}", at.unwrap_or_default())
            }
        }
    }

    fn lark(&self, node: &Node, out: &mut String) {
        if let Some(expression) = self.expression(node) {
            out.push_str(&lexeme(&expression));
            return;
        }
        match node {
            Node::Rule(name) => out.push_str(&self.rule(name)),
            Node::Sequence(nodes) => {
                out.push('(');
                for node in nodes {
                    self.lark(node, out);
                    out.push(' ');
                }
                out.push(')');
            }
            Node::Choice(nodes) => {
                out.push('(');
                for (i, node) in nodes.iter().enumerate() {
                    out.push_str(if i > 0 { " | " } else { "" });
                    self.lark(node, out);
                }
                out.push(')');
            }
            Node::Repeat(node, least, most) => {
                self.lark(node, out);
                match (least, most) {
                    (0, None) => out.push('*'),
                    (1, None) => out.push('+'),
                    (least, None) => out.push_str(&format!("{{{least},}}")),
                    (least, Some(most)) => out.push_str(&format!("{{{least},{most}}}")),
                }
            }
            // These are regular.
            Node::Text(_) | Node::Class(_) => {}
        }
    }
}

fn lexeme(expression: &str) -> String {
    match expression {
        "" => "\"\"".into(),
        _ => format!("/{expression}/"),
    }
}
