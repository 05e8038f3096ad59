//! The format of these files: a command, its input, `----`, what is expected, an empty line.
//!
//! Lines that begin with `#` are remarks. A command may go on after a backslash. If `----` comes twice,
//! the expected text may have empty lines and ends with `----` twice.

/// One command and what it leads to.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where the command is, counted from 1.
    pub line: usize,
    /// The command as it is written.
    pub text: String,
    pub name: String,
    /// `key=value`, `key=(value, value)`, or only `key`.
    pub arguments: Vec<(String, Vec<String>)>,
    pub input: Vec<String>,
    pub expected: Vec<String>,
}

impl Case {
    /// The values of a `key=`.
    pub fn values(&self, key: &str) -> Option<&[String]> {
        self.arguments.iter().find(|(name, _)| name == key).map(|(_, values)| values.as_slice())
    }

    /// The only value of a `key=`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.values(key)?.first().map(String::as_str)
    }

    /// The numbers of a `key=`; none if it is not there.
    pub fn numbers(&self, key: &str) -> Vec<u64> {
        self.values(key).unwrap_or_default().iter().map(|value| value.parse().unwrap()).collect()
    }

    /// The arguments without `=`.
    pub fn plain(&self) -> impl Iterator<Item = &str> {
        let bare = |(key, values): &'_ &(String, Vec<String>)| values.is_empty() && !key.is_empty();
        self.arguments.iter().filter(bare).map(|(key, _)| key.as_str())
    }
}

pub fn parse(text: &str) -> Vec<Case> {
    let lines: Vec<&str> = text.lines().collect();
    let mut cases = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        if lines[at].trim().is_empty() || lines[at].starts_with('#') {
            at += 1;
            continue;
        }
        let line = at + 1;
        let mut command = String::new();
        while let Some(begin) = lines[at].trim_end().strip_suffix('\\') {
            command.push_str(begin);
            at += 1;
        }
        command.push_str(lines[at].trim());
        at += 1;
        let input = take_until(&lines, &mut at, |line, _| line == "----");
        let doubled = lines.get(at).is_some_and(|line| line.trim_end() == "----");
        let expected = if doubled {
            at += 1;
            let expected = take_until(&lines, &mut at, |line, next| line == "----" && next == line);
            at += 1;
            expected
        } else {
            take_until(&lines, &mut at, |line, _| line.is_empty())
        };
        let (name, arguments) = words(&command);
        cases.push(Case { line, text: command, name, arguments, input, expected });
    }
    cases
}

/// Takes the lines before the one that `end` accepts (with the next one), and goes past it.
fn take_until(lines: &[&str], at: &mut usize, end: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let first = *at;
    let line = |at: usize| lines.get(at).map_or("", |line| line.trim_end());
    while *at < lines.len() && !end(line(*at), line(*at + 1)) {
        *at += 1;
    }
    let taken = lines[first..*at].iter().map(|line| (*line).to_owned()).collect();
    *at += 1;
    taken
}

/// The words of a command. Parentheses hold a list together.
fn words(command: &str) -> (String, Vec<(String, Vec<String>)>) {
    let mut depth = 0;
    let split = |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c.is_whitespace() && depth == 0
    };
    let mut words = command.split(split).filter(|word| !word.is_empty());
    let name = words.next().unwrap_or_default().to_owned();
    let arguments = words
        .map(|word| match word.split_once('=') {
            None => (word.to_owned(), Vec::new()),
            Some((key, value)) => {
                let items = value.trim_matches(['(', ')']).split(',').map(str::trim);
                let items = items.filter(|item| !item.is_empty()).map(str::to_owned);
                (key.to_owned(), items.collect())
            }
        })
        .collect();
    (name, arguments)
}

#[test]
fn the_format_is_read() {
    let text = "# remark\n\nfoo a=(1, 2) b=x 7\ninput\n----\nout 1\nout 2\n\nbar \\\n  c\n----\n----\n\
                one\n\ntwo\n----\n----\n\nbaz\n----\n";
    let cases = parse(text);
    let shape = |case: &Case| (case.line, case.name.clone(), case.expected.join("|"));
    assert_eq!(shape(&cases[0]), (3, "foo".to_owned(), "out 1|out 2".to_owned()));
    assert_eq!((cases[0].numbers("a"), cases[0].value("b")), (vec![1, 2], Some("x")));
    assert_eq!((cases[0].plain().collect::<Vec<_>>(), &*cases[0].input[0]), (vec!["7"], "input"));
    assert_eq!(shape(&cases[1]), (9, "bar".to_owned(), "one||two".to_owned()));
    assert_eq!(cases[1].text, "bar c");
    assert_eq!(shape(&cases[2]), (19, "baz".to_owned(), String::new()));
    assert_eq!(cases.len(), 3);
}
