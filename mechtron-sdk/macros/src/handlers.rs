//! `#[handlers]`.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::{
    Attribute, Error, FnArg, Ident, ImplItem, ImplItemFn, ItemImpl, LitStr, PathArguments, Result,
    ReturnType, Token, Type,
};

use crate::contract::{Json, Part, doc, section, string};
use crate::schema;

pub(crate) fn expand(arguments: &TokenStream, mut item: ItemImpl) -> Result<TokenStream> {
    if !arguments.is_empty() {
        return Err(Error::new_spanned(arguments, "`#[handlers]` takes nothing"));
    }
    if item.trait_.is_some() || !item.generics.params.is_empty() {
        return Err(Error::new(
            Span::call_site(),
            "`#[handlers]` is for the `impl Name { … }` of a mechtron",
        ));
    }
    let name = own_name(&item.self_ty)?;

    let mut handlers = Vec::new();
    let mut errors: Option<Error> = None;
    for method in item.items.iter_mut().filter_map(|item| match item {
        ImplItem::Fn(method) => Some(method),
        _ => None,
    }) {
        match Handler::of(method) {
            Ok(found) => handlers.extend(found),
            Err(error) => match &mut errors {
                Some(errors) => errors.combine(error),
                None => errors = Some(error),
            },
        }
    }
    if let Some(errors) = errors.or_else(|| collision(&handlers)).or_else(|| too_many_watches(&handlers)) {
        return Err(errors);
    }

    let mechtron = mechtron(&name, &handlers);
    let reference = reference(&name, &handlers);
    let handle = handle(&name, &handlers);
    let record = section("", &quote!(<#name as ::mechtron_sdk::Mechtron>::CONTRACT), "\n");
    Ok(quote!(#item #mechtron #reference #handle #record))
}

fn own_name(ty: &Type) -> Result<Ident> {
    match ty {
        Type::Path(path) if path.qself.is_none() => path
            .path
            .get_ident()
            .cloned()
            .ok_or_else(|| Error::new_spanned(ty, "only the name of the mechtron")),
        _ => Err(Error::new_spanned(ty, "the name of a mechtron is expected here")),
    }
}

/// A method with a role.
struct Handler {
    role: Role,
    name: Ident,
    is_async: bool,
    /// Whether it takes `&mut self`.
    writes: bool,
    doc: String,
    docs: Vec<Attribute>,
    /// The message of `#[call]`, `#[cast]` and `#[timer]`.
    message: Option<Type>,
    /// Whether an `#[http]` handler wants the request.
    wants_request: bool,
    /// What is in the `Result`.
    output: Type,
}

enum Role {
    Init,
    Call,
    Cast,
    Timer,
    Http { method: String, path: LitStr },
    SocketMessage,
    SocketClosed,
    Watch { selector: LitStr },
}

/// How many watches a mechtron may have; the host refuses more too.
const WATCHES_MAX: usize = 16;

impl Handler {
    /// Takes the role off a method and checks its signature against it; `None` for a method without role.
    fn of(method: &mut ImplItemFn) -> Result<Option<Self>> {
        let mut roles = Vec::new();
        let mut wrong: Option<Error> = None;
        method.attrs.retain(|attribute| match role(attribute) {
            Ok(None) => true,
            Ok(Some(role)) => {
                roles.push(role);
                false
            }
            Err(error) => {
                wrong = Some(error);
                false
            }
        });
        if let Some(error) = wrong {
            return Err(error);
        }
        let name = method.sig.ident.clone();
        let Some(role) = roles.pop() else { return Ok(None) };
        if !roles.is_empty() {
            return Err(Error::new(name.span(), format!("`{name}` has two roles; a handler has one")));
        }
        let shape = shape(&role);
        let wrong = |what: &str| {
            Error::new(
                name.span(),
                format!("{what}: handler `{name}` needs `{}`", shape.replace("NAME", &name.to_string())),
            )
        };

        let mut inputs = method.sig.inputs.iter();
        let writes = match inputs.next() {
            Some(FnArg::Receiver(receiver)) if receiver.reference.is_some() => receiver.mutability.is_some(),
            _ => return Err(wrong("it does not take `&self` or `&mut self`")),
        };
        let mut types = inputs.map(|input| match input {
            FnArg::Typed(typed) => Some((*typed.ty).clone()),
            FnArg::Receiver(_) => None,
        });
        let cx_is_mutable = match types.next().flatten() {
            Some(Type::Reference(cx)) if is_named(&cx.elem, "Cx") => cx.mutability.is_some(),
            _ => return Err(wrong("its second parameter is not `cx: &mut Cx`")),
        };
        let third = types.next().flatten();
        if types.next().is_some() {
            return Err(wrong("it has too many parameters"));
        }
        if matches!(role, Role::Timer) && !(writes && cx_is_mutable && method.sig.asyncness.is_some()) {
            return Err(wrong("a timer's handler is `async` and takes `&mut self` and `&mut Cx`"));
        }
        let (message, wants_request) = match (&role, third) {
            (Role::Call | Role::Cast | Role::Timer, Some(message)) => (Some(message), false),
            (Role::Call | Role::Cast | Role::Timer, None) => return Err(wrong("it takes no message")),
            (Role::Init, Some(_)) => return Err(wrong("it takes a message")),
            (Role::Http { .. }, Some(request)) if !is_named(&request, "Request") => {
                return Err(wrong("its third parameter is not `request: Request`"));
            }
            (Role::Http { .. }, request) => (None, request.is_some()),
            (Role::SocketMessage, Some(message)) if is_named(&message, "SocketMessage") => (None, false),
            (Role::SocketClosed, Some(closed)) if is_named(&closed, "SocketClosed") => (None, false),
            (Role::Watch { .. }, Some(change)) if is_named(&change, "Change") => (None, false),
            (Role::SocketMessage | Role::SocketClosed | Role::Watch { .. }, _) => {
                return Err(wrong("its third parameter is another"));
            }
            (Role::Init, None) => (None, false),
        };
        let Some(output) = output(&method.sig.output) else {
            return Err(wrong("it does not return `Result<…>`"));
        };
        let waited_for =
            !matches!(role, Role::Init | Role::Cast | Role::Timer | Role::SocketClosed | Role::Watch { .. });
        if !waited_for && !is_unit(&output) {
            return Err(wrong("it returns something, but nobody waits for it"));
        }
        Ok(Some(Self {
            role,
            is_async: method.sig.asyncness.is_some(),
            writes,
            doc: doc(&method.attrs),
            docs: docs(method),
            name,
            message,
            wants_request,
            output,
        }))
    }

    /// The expression of a handler under way; `argument` is what it gets besides itself and `cx`.
    fn turn(&self, argument: &TokenStream, answer: &TokenStream) -> TokenStream {
        let name = &self.name;
        let (this, borrow) =
            if self.writes { (quote!(mut this), quote!(&mut *)) } else { (quote!(this), quote!(&*)) };
        let wait = self.is_async.then(|| quote!(.await));
        quote! {
            async move {
                let #this = self;
                let mut cx = cx;
                let result = Self::#name(#borrow this, &mut cx, #argument)#wait;
                (this, #answer)
            }
        }
    }

    fn record(&self) -> Json {
        let role = match &self.role {
            Role::Init => "init",
            Role::Call => "call",
            Role::Cast => "cast",
            Role::Timer => "timer",
            Role::Http { .. } => "http",
            Role::SocketMessage | Role::SocketClosed => "socket",
            Role::Watch { .. } => "watch",
        };
        let mut json = Json::text(format!(r#"{{"role":"{role}","name":{}"#, string(&self.name.to_string())));
        if let Role::Http { method, path } = &self.role {
            json.push(&format!(r#","method":"Http<{method}>","path":{}"#, string(&path.value())));
        }
        match self.role {
            Role::SocketMessage => json.push(r#","method":"Ext<SocketMessage>""#),
            Role::SocketClosed => json.push(
                r#","method":"Ext<SocketClosed>","input":{"type":"object","properties":{"code":{"type":"integer"},"reason":{"type":"string"}},"required":["code","reason"]}"#,
            ),
            _ => {}
        }
        if let Role::Watch { selector } = &self.role {
            json.push(&format!(r#","selector":{}"#, string(&selector.value())));
        }
        if let (Role::Call | Role::Cast, Some(message)) = (&self.role, &self.message) {
            json.push(r#","method":"Ext<"#);
            json.append(Json::part(Part::Constant(quote!(<#message as ::mechtron_sdk::Message>::NAME))));
            json.push(r#">","input":"#);
            json.append(Json::part(Part::Reference(Box::new(message.clone()))));
        }
        if matches!(self.role, Role::Call) {
            json.push(r#","output":"#);
            json.append(schema::of(&self.output));
        }
        if !self.doc.is_empty() {
            json.push(&format!(r#","doc":{}"#, string(&self.doc)));
        }
        json.push("}");
        json
    }
}

/// The doc comment of the methods that call a handler.
fn docs(method: &ImplItemFn) -> Vec<Attribute> {
    let docs: Vec<_> =
        method.attrs.iter().filter(|attribute| attribute.path().is_ident("doc")).cloned().collect();
    if docs.is_empty() {
        let text = format!("Calls the handler `{}`.", method.sig.ident);
        return vec![syn::parse_quote!(#[doc = #text])];
    }
    docs
}

/// How a role's handler is written.
fn shape(role: &Role) -> &'static str {
    match role {
        Role::Init => "async fn NAME(&mut self, cx: &mut Cx) -> Result<()>",
        Role::Call => "async fn NAME(&mut self, cx: &mut Cx, message: T) -> Result<U>",
        Role::Cast | Role::Timer => "async fn NAME(&mut self, cx: &mut Cx, message: T) -> Result<()>",
        Role::Http { .. } => "async fn NAME(&mut self, cx: &mut Cx, request: Request) -> Result<Response>",
        Role::SocketMessage => {
            "async fn NAME(&mut self, cx: &mut Cx, message: SocketMessage) -> Result<String>"
        }
        Role::SocketClosed => "async fn NAME(&mut self, cx: &mut Cx, closed: SocketClosed) -> Result<()>",
        Role::Watch { .. } => "async fn NAME(&mut self, cx: &mut Cx, change: Change) -> Result<()>",
    }
}

fn role(attribute: &Attribute) -> Result<Option<Role>> {
    let plain = |role| attribute.meta.require_path_only().map(|_| Some(role));
    match attribute.path().get_ident().map(Ident::to_string).as_deref() {
        Some("init") => plain(Role::Init),
        Some("call") => plain(Role::Call),
        Some("cast") => plain(Role::Cast),
        Some("timer") => plain(Role::Timer),
        Some("socket") => attribute.parse_args_with(socket).map(Some).map_err(|error| {
            let usage = "a handler of WebSockets is written `#[socket(message)]` or `#[socket(closed)]`";
            Error::new(error.span(), format!("{error}; {usage}"))
        }),
        Some("http") => attribute.parse_args_with(http).map(Some).map_err(|error| {
            Error::new(
                error.span(),
                format!("{error}; an HTTP handler is written `#[http(GET, \"/path/{{name}}\")]`"),
            )
        }),
        Some("on") => attribute.parse_args_with(on).map(Some).map_err(|error| {
            let usage = "a handler of changes is written `#[on(watch = \"SELECTOR\")]`";
            Error::new(error.span(), format!("{error}; {usage}"))
        }),
        _ => Ok(None),
    }
}

fn on(input: syn::parse::ParseStream<'_>) -> Result<Role> {
    let what: Ident = input.parse()?;
    if what != "watch" {
        return Err(Error::new(what.span(), format!("`{what}` is not `watch`")));
    }
    input.parse::<Token![=]>()?;
    let selector: LitStr = input.parse()?;
    // The host reads it when the module is published or named; what it would say to these is plain.
    let text = selector.value();
    if text.trim().is_empty() {
        return Err(Error::new(selector.span(), "the selector is empty"));
    }
    for [open, close] in [['<', '>'], ['[', ']']] {
        let is_filter = open == '[';
        let pattern = text.split('[').next().unwrap_or_default();
        let part = if is_filter { &*text } else { pattern };
        if part.contains(open) != part.contains(close) {
            return Err(Error::new(
                selector.span(),
                format!("the selector has one of `{open}` and `{close}` without the other"),
            ));
        }
    }
    Ok(Role::Watch { selector })
}

fn socket(input: syn::parse::ParseStream<'_>) -> Result<Role> {
    let what: Ident = input.parse()?;
    match &*what.to_string() {
        "message" => Ok(Role::SocketMessage),
        "closed" => Ok(Role::SocketClosed),
        other => Err(Error::new(what.span(), format!("`{other}` is neither `message` nor `closed`"))),
    }
}

fn http(input: syn::parse::ParseStream<'_>) -> Result<Role> {
    let method: Ident = input.parse()?;
    let text = method.to_string();
    if !["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].contains(&&*text) {
        return Err(Error::new(
            method.span(),
            format!("`{text}` is not GET, POST, PUT, PATCH, DELETE or OPTIONS"),
        ));
    }
    input.parse::<Token![,]>()?;
    let path: LitStr = input.parse()?;
    check_path(&path)?;
    let method = text[..1].to_owned() + &text[1..].to_ascii_lowercase();
    Ok(Role::Http { method, path })
}

fn check_path(path: &LitStr) -> Result<()> {
    let text = path.value();
    if !text.starts_with('/') {
        return Err(Error::new(path.span(), "a path begins with `/`"));
    }
    if text.contains(['?', '#']) || text.contains(char::is_whitespace) {
        return Err(Error::new(path.span(), "a path has no query, fragment or white space"));
    }
    for segment in text.split('/') {
        let inner = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        if !inner.map_or(!segment.contains(['{', '}']), is_name) {
            return Err(Error::new(
                path.span(),
                format!("`{segment}` is not a segment: braces stand around a whole one, `/users/{{id}}`"),
            ));
        }
    }
    Ok(())
}

fn is_named(ty: &Type, name: &str) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == name))
}

fn is_unit(ty: &Type) -> bool {
    matches!(ty, Type::Tuple(tuple) if tuple.elems.is_empty())
}

fn output(returned: &ReturnType) -> Option<Type> {
    let ReturnType::Type(_, ty) = returned else { return None };
    let Type::Path(path) = &**ty else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == "Result")?;
    let PathArguments::AngleBracketed(_) = &last.arguments else { return None };
    schema::arguments(&last.arguments).first().map(|ty| (*ty).clone())
}

/// Two handlers for the same thing.
fn collision(handlers: &[Handler]) -> Option<Error> {
    let key = |handler: &Handler| match (&handler.role, &handler.message) {
        (Role::Init, _) => Some("`#[init]`".to_owned()),
        (Role::SocketMessage, _) => Some("`#[socket(message)]`".to_owned()),
        (Role::SocketClosed, _) => Some("`#[socket(closed)]`".to_owned()),
        (Role::Watch { selector }, _) => Some(format!("the changes of `{}`", selector.value())),
        (Role::Http { method, path }, _) => Some(format!("`{} {}`", method.to_uppercase(), path.value())),
        (Role::Call | Role::Cast, Some(message)) => Some(format!("`{}`", quote!(#message))),
        _ => None,
    };
    for (at, handler) in handlers.iter().enumerate() {
        let what = key(handler);
        if let Some(first) = handlers[..at].iter().find(|first| what.is_some() && key(first) == what) {
            return Some(Error::new(
                handler.name.span(),
                format!("`{}` and `{}` are both for {}", first.name, handler.name, what.unwrap_or_default()),
            ));
        }
    }
    None
}

fn too_many_watches(handlers: &[Handler]) -> Option<Error> {
    let mut watches = handlers.iter().filter(|handler| matches!(handler.role, Role::Watch { .. }));
    let one_more = watches.nth(WATCHES_MAX)?;
    Some(Error::new(one_more.name.span(), format!("a mechtron has at most {WATCHES_MAX} watches")))
}

/// `impl Mechtron`.
fn mechtron(name: &Ident, handlers: &[Handler]) -> TokenStream {
    let title = name.to_string();
    let contract = contract(name, handlers).into_constant();
    let (messages, sockets) = (messages(handlers), sockets(handlers));
    let pages = pages(handlers);
    let changes = changes(handlers);
    let init = match handlers.iter().find(|handler| matches!(handler.role, Role::Init)) {
        Some(handler) => {
            let turn = handler.turn(&quote!(), &quote!(result.map(|()| Answer::done())));
            quote!(Ok(Dispatched::begin(#turn)))
        }
        None => quote! {{
            _ = cx;
            Err(self)
        }},
    };
    quote! {
        const _: () = {
            use ::mechtron_sdk::__private::{Answer, Dispatched, Incoming, Object, Turn};

            #[automatically_derived]
            impl ::mechtron_sdk::Mechtron for #name {
                const NAME: &'static str = #title;
                const CONTRACT: &'static str = #contract;

                fn dispatch(
                    self: ::std::boxed::Box<Self>,
                    cx: ::mechtron_sdk::Cx,
                    incoming: &Incoming<'_>,
                ) -> Dispatched {
                    #messages
                    #sockets
                    #pages
                    _ = cx;
                    let error = incoming.no_handler(#title);
                    Dispatched::refused(self, error)
                }

                fn changed(
                    self: ::std::boxed::Box<Self>,
                    cx: ::mechtron_sdk::Cx,
                    watch: &str,
                    change: ::mechtron_sdk::Change,
                ) -> Dispatched {
                    #changes
                    _ = (cx, change);
                    Dispatched::unwatched(self, watch)
                }

                fn init(
                    self: ::std::boxed::Box<Self>,
                    cx: ::mechtron_sdk::Cx,
                ) -> ::core::result::Result<Turn, ::std::boxed::Box<dyn Object>> {
                    #init
                }
            }
        };
    }
}

fn messages(handlers: &[Handler]) -> TokenStream {
    let arms = handlers.iter().filter_map(|handler| {
        let answer = match handler.role {
            Role::Call => quote!(result.and_then(|reply| Answer::call(&reply))),
            Role::Cast => quote!(result.map(|()| Answer::done())),
            _ => return None,
        };
        let message = handler.message.as_ref()?;
        let turn = handler.turn(&quote!(message), &answer);
        let writes = handler.writes;
        Some(quote! {
            if name == <#message as ::mechtron_sdk::Message>::NAME {
                return match incoming.message::<#message>() {
                    Ok(message) => Dispatched::turn(#writes, #turn),
                    Err(error) => Dispatched::refused(self, error),
                };
            }
        })
    });
    let arms: Vec<_> = arms.collect();
    if arms.is_empty() {
        return TokenStream::new();
    }
    quote! {
        if let Some(name) = incoming.ext() {
            #(#arms)*
        }
    }
}

fn changes(handlers: &[Handler]) -> TokenStream {
    let arms = handlers.iter().filter(|handler| matches!(handler.role, Role::Watch { .. })).map(|handler| {
        let name = handler.name.to_string();
        let turn = handler.turn(&quote!(change), &quote!(result.map(|()| Answer::done())));
        let writes = handler.writes;
        quote! {
            if watch == #name {
                return Dispatched::turn(#writes, #turn);
            }
        }
    });
    quote!(#(#arms)*)
}

/// The messages of WebSockets. Who accepts them by a page and does not want to know of their end need not say so.
fn sockets(handlers: &[Handler]) -> TokenStream {
    let arm = |name: &str, read: &TokenStream, writes: bool, turn: &TokenStream| {
        quote! {
            if incoming.ext() == ::core::option::Option::Some(#name) {
                return match incoming.#read() {
                    Ok(message) => Dispatched::turn(#writes, #turn),
                    Err(error) => Dispatched::refused(self, error),
                };
            }
        }
    };
    let message =
        handlers.iter().find(|handler| matches!(handler.role, Role::SocketMessage)).map(|handler| {
            let turn =
                handler.turn(&quote!(message), &quote!(result.and_then(|answer| Answer::http(answer))));
            arm("SocketMessage", &quote!(socket_message), handler.writes, &turn)
        });
    let closed = handlers.iter().find(|handler| matches!(handler.role, Role::SocketClosed));
    let has_pages = handlers.iter().any(|handler| matches!(handler.role, Role::Http { .. }));
    let closed = match closed {
        Some(handler) => {
            let turn = handler.turn(&quote!(message), &quote!(result.map(|()| Answer::done())));
            Some(arm("SocketClosed", &quote!(socket_closed), handler.writes, &turn))
        }
        None if has_pages => Some(quote! {
            if incoming.ext() == ::core::option::Option::Some("SocketClosed") {
                return Dispatched::turn(false, async move { (self, Ok(Answer::done())) });
            }
        }),
        None => None,
    };
    quote!(#message #closed)
}

fn pages(handlers: &[Handler]) -> TokenStream {
    let mut arms = Vec::new();
    let mut paths = Vec::new();
    for handler in handlers {
        let Role::Http { method, path } = &handler.role else { continue };
        let (argument, binding) =
            if handler.wants_request { (quote!(request), quote!(request)) } else { (quote!(), quote!(_)) };
        let turn = handler.turn(&argument, &quote!(result.and_then(|page| Answer::http(page))));
        let writes = handler.writes;
        arms.push(quote! {
            if name == #method
                && let Some(#binding) = incoming.request(#path)
            {
                return Dispatched::turn(#writes, #turn);
            }
        });
        paths.push(path);
    }
    if arms.is_empty() {
        return TokenStream::new();
    }
    quote! {
        if let Some(name) = incoming.http() {
            #(#arms)*
            let error = incoming.no_page(#(incoming.is_at(#paths))||*);
            return Dispatched::refused(self, error);
        }
    }
}

fn contract(name: &Ident, handlers: &[Handler]) -> Json {
    let mut json = Json::text(format!(r#"{{"mechtron":{},"doc":"#, string(&name.to_string())));
    json.append(Json::part(Part::Constant(quote!(<#name as ::mechtron_sdk::__private::State>::DOC))));
    json.push(r#","reentrant":false,"handlers":["#);
    for (at, handler) in handlers.iter().enumerate() {
        if at > 0 {
            json.push(",");
        }
        json.append(handler.record());
    }
    json.push("]}");
    json
}

/// `NameRef`: the address of such a mechtron, with a method for each of its messages.
fn reference(name: &Ident, handlers: &[Handler]) -> TokenStream {
    let reference = format_ident!("{name}Ref");
    let what = format!("The address of a [`{name}`].");
    let methods = handlers.iter().filter_map(|handler| {
        let message = handler.message.as_ref()?;
        let (method, docs, output) = (&handler.name, &handler.docs, &handler.output);
        match handler.role {
            Role::Call => Some(quote! {
                #(#docs)*
                pub fn #method(&self, cx: &::mechtron_sdk::Cx, message: #message) -> ::mechtron_sdk::Reply<#output> {
                    cx.call(self.0.point(), &message)
                }
            }),
            Role::Cast => Some(quote! {
                #(#docs)*
                ///
                /// # Errors
                /// When the message cannot be sent. Whether it arrives is not known.
                pub fn #method(&self, cx: &::mechtron_sdk::Cx, message: #message) -> ::mechtron_sdk::Result<()> {
                    cx.cast(self.0.point(), &message)
                }
            }),
            _ => None,
        }
    });
    quote! {
        #[doc = #what]
        #[derive(
            Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash,
            ::mechtron_sdk::serde::Serialize, ::mechtron_sdk::serde::Deserialize,
        )]
        #[serde(crate = "::mechtron_sdk::serde", transparent)]
        pub struct #reference(::mechtron_sdk::Reference);

        #[automatically_derived]
        impl #reference {
            /// The one at a point.
            ///
            /// # Errors
            /// When the text cannot be a point.
            pub fn at(point: impl Into<String>) -> ::mechtron_sdk::Result<Self> {
                ::mechtron_sdk::Reference::new(point).map(Self)
            }

            /// The point's text.
            pub fn point(&self) -> &str {
                self.0.point()
            }

            #(#methods)*
        }

        #[automatically_derived]
        impl ::core::fmt::Display for #reference {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::Display::fmt(&self.0, f)
            }
        }
    }
}

/// `NameHandle`: the mechtron in a test, with methods that wait.
fn handle(name: &Ident, handlers: &[Handler]) -> TokenStream {
    let handle = format_ident!("{name}Handle");
    let reference = format_ident!("{name}Ref");
    let what = format!("A [`{name}`] in a test.");
    let methods = handlers.iter().filter_map(|handler| {
        let (method, docs, output) = (&handler.name, &handler.docs, &handler.output);
        if let Role::Watch { .. } = handler.role {
            let name = handler.name.to_string();
            return Some(quote! {
                #(#docs)*
                ///
                /// # Errors
                /// What the handler failed with, or what came instead.
                pub fn #method(&self, change: ::mechtron_sdk::Change) -> ::mechtron_sdk::Result<()> {
                    self.0.change(#name, &change)
                }
            });
        }
        let message = handler.message.as_ref()?;
        let call = match handler.role {
            Role::Call => quote!(self.0.call(&message)),
            Role::Cast => quote!(self.0.cast(&message)),
            _ => return None,
        };
        Some(quote! {
            #(#docs)*
            ///
            /// # Errors
            /// What the handler answered, or what came instead.
            pub fn #method(&self, message: #message) -> ::mechtron_sdk::Result<#output> {
                #call
            }
        })
    });
    quote! {
        #[doc = #what]
        #[cfg(not(target_arch = "wasm32"))]
        #[derive(Clone)]
        pub struct #handle(::mechtron_sdk::__private::Handle<#name>);

        #[cfg(not(target_arch = "wasm32"))]
        #[automatically_derived]
        impl #handle {
            /// Its address.
            pub fn reference(&self) -> #reference {
                #reference(self.0.reference())
            }

            /// Its fields, as they were last saved.
            pub fn state(&self) -> #name {
                self.0.state()
            }

            #(#methods)*
        }

        #[cfg(not(target_arch = "wasm32"))]
        #[automatically_derived]
        impl ::mechtron_sdk::__private::Tested for #name {
            type Handle = #handle;

            fn handle(handle: ::mechtron_sdk::__private::Handle<Self>) -> #handle {
                #handle(handle)
            }
        }
    }
}
