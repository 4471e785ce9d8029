//! The schema, read from its source.

use std::collections::BTreeMap;

use syn::{
    Attribute, BinOp, Expr, Fields, GenericArgument, Item, Lit, Meta, Path, PathArguments, Stmt, Type,
    punctuated::Punctuated, token::Comma,
};

/// Structures, enumerations and constants of some source files, by name.
#[derive(Default)]
pub(crate) struct Schema {
    structures: BTreeMap<String, Vec<Field>>,
    words: BTreeMap<String, Vec<String>>,
    constants: BTreeMap<String, u64>,
}

/// A key, or a section.
pub(crate) struct Field {
    pub(crate) name: String,
    /// The name of its type, without arguments.
    pub(crate) kind: String,
    pub(crate) reader: Reader,
    pub(crate) meaning: String,
}

/// What reads a value, with the least and the greatest that it accepts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    Number(u64, u64),
    Millis(u64, u64),
    Bytes(u64, u64),
    PowerOfTwo(u64, u64),
    Section,
    Plain,
}

impl Schema {
    /// Reads Rust's source, file by file.
    ///
    /// # Errors
    /// It is not Rust, or has a range that only a compiler can compute.
    pub(crate) fn parse(files: &[&str]) -> syn::Result<Self> {
        let mut schema = Self::default();
        let mut items = Vec::new();
        for text in files {
            items.extend(syn::parse_file(text)?.items);
        }
        for item in &items {
            if let Item::Const(it) = item {
                let value = schema.value(&it.expr)?;
                schema.constants.insert(it.ident.to_string(), value);
            }
        }
        for item in &items {
            match item {
                Item::Struct(it) => {
                    let fields = it.fields.iter().map(|field| schema.field(field, &items));
                    let fields = fields.collect::<syn::Result<_>>()?;
                    schema.structures.insert(it.ident.to_string(), fields);
                }
                Item::Enum(it) => {
                    // As `rename_all = "lowercase"` has them.
                    let unit = it.variants.iter().filter(|variant| matches!(variant.fields, Fields::Unit));
                    let words = unit.map(|variant| format!("`{}`", variant.ident.to_string().to_lowercase()));
                    schema.words.insert(it.ident.to_string(), words.collect());
                }
                _ => {}
            }
        }
        Ok(schema)
    }

    /// The fields of a structure.
    pub(crate) fn fields(&self, structure: &str) -> Option<&[Field]> {
        self.structures.get(structure).map(Vec::as_slice)
    }

    /// The words that an enumeration accepts.
    pub(crate) fn words(&self, enumeration: &str) -> Vec<String> {
        self.words.get(enumeration).cloned().unwrap_or_default()
    }

    fn field(&self, field: &syn::Field, items: &[Item]) -> syn::Result<Field> {
        let kind = match &field.ty {
            Type::Path(it) => it.path.segments.last().map(|segment| segment.ident.to_string()),
            _ => None,
        };
        let reader = match reader(&field.attrs)? {
            Some(path) => self.reader(&path, items)?,
            None => Reader::Plain,
        };
        let name = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
        Ok(Field { name, kind: kind.unwrap_or_default(), reader, meaning: documentation(&field.attrs) })
    }

    /// What `deserialize_with` names. A function of the same file stands for the reader that it calls first.
    fn reader(&self, path: &Path, items: &[Item]) -> syn::Result<Reader> {
        let Some(last) = path.segments.last() else { return Ok(Reader::Plain) };
        let range = match &last.arguments {
            PathArguments::AngleBracketed(arguments) => self.range(&arguments.args)?,
            _ => (0, u64::MAX),
        };
        Ok(match last.ident.to_string().as_str() {
            "number" => Reader::Number(range.0, range.1),
            "millis" => Reader::Millis(range.0, range.1),
            "bytes" => Reader::Bytes(range.0, range.1),
            "power_of_two" => Reader::PowerOfTwo(range.0, range.1),
            "section" => Reader::Section,
            name => {
                let of_file = items.iter().find_map(|item| match item {
                    Item::Fn(it) if it.sig.ident == name => first_call(&it.block.stmts),
                    _ => None,
                });
                of_file.map_or(Ok(Reader::Plain), |path| self.reader(&path, items))?
            }
        })
    }

    /// The last two arguments.
    fn range(&self, arguments: &Punctuated<GenericArgument, Comma>) -> syn::Result<(u64, u64)> {
        let mut values = Vec::new();
        for argument in arguments {
            match argument {
                GenericArgument::Const(value) => values.push(self.value(value)?),
                GenericArgument::Type(Type::Path(it)) => {
                    let name = it.path.get_ident().map(ToString::to_string).unwrap_or_default();
                    values.extend(self.constants.get(&name));
                }
                _ => {}
            }
        }
        match values[..] {
            [.., min, max] => Ok((min, max)),
            _ => Err(syn::Error::new_spanned(arguments, "these arguments are not a range")),
        }
    }

    /// The value of a constant expression.
    fn value(&self, expression: &Expr) -> syn::Result<u64> {
        let unknown = || syn::Error::new_spanned(expression, "the value of this is not known here");
        match expression {
            Expr::Lit(it) => match &it.lit {
                Lit::Int(number) => number.base10_parse(),
                _ => Err(unknown()),
            },
            Expr::Binary(it) => {
                let (left, right) = (self.value(&it.left)?, self.value(&it.right)?);
                match it.op {
                    BinOp::Shl(_) => u32::try_from(right).ok().and_then(|by| left.checked_shl(by)),
                    BinOp::Mul(_) => left.checked_mul(right),
                    _ => None,
                }
                .ok_or_else(unknown)
            }
            Expr::Block(it) => match &it.block.stmts[..] {
                [Stmt::Expr(inner, None)] => self.value(inner),
                _ => Err(unknown()),
            },
            Expr::Path(it) => {
                let names: Vec<String> = it.path.segments.iter().map(|it| it.ident.to_string()).collect();
                match &names[..] {
                    [kind, max] if kind == "u64" && max == "MAX" => Ok(u64::MAX),
                    [name] => self.constants.get(name).copied().ok_or_else(unknown),
                    _ => Err(unknown()),
                }
            }
            _ => Err(unknown()),
        }
    }
}

/// The path in `#[serde(deserialize_with = "…")]`.
fn reader(attributes: &[Attribute]) -> syn::Result<Option<Path>> {
    let mut found = None;
    for attribute in attributes.iter().filter(|it| it.path().is_ident("serde")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("deserialize_with") {
                found = Some(meta.value()?.parse::<syn::LitStr>()?.parse()?);
            } else if let Ok(value) = meta.value() {
                value.parse::<Expr>()?;
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// What the first statement calls, whatever is done with the result.
fn first_call(statements: &[Stmt]) -> Option<Path> {
    let Some(Stmt::Expr(mut expression, _)) = statements.first().cloned() else { return None };
    loop {
        expression = match expression {
            Expr::MethodCall(it) => *it.receiver,
            Expr::Call(it) => *it.func,
            Expr::Path(it) => return Some(it.path),
            _ => return None,
        }
    }
}

/// The text of `///`, in one line.
fn documentation(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(it) => match &it.lit {
                Lit::Str(text) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
