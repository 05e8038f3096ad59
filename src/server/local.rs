//! Commands that the connection answers itself.

use std::time::Duration;

use coracle_engine::env::Env;
use futures_util::FutureExt;

use super::cluster::{ClusterCommand, Topology, cluster_reply, slot_of};
use super::commands::{self, CommandError, Local, Sub, config, introspect, quoted};
use super::fan::FanRequest;
use super::limits::{CLIENT_NAME_BYTES_MAX, SLOTS};
use super::resp::{Args, Protocol, Writer, parse_i64};
use super::session::{Session, Step};
use super::state::{Client, Slot};

type Taken = Result<Step, CommandError>;

/// The version of Redis whose behaviour is offered; clients decide by it what they may use.
pub(super) const REDIS_VERSION: &str = "7.0.15";

impl<E: Env> Session<E> {
    fn answer(&mut self, write: impl FnOnce(&mut Writer<'_>)) -> Taken {
        self.reply(write);
        Ok(Step::Next)
    }

    pub(super) fn local(&mut self, local: Local, args: Args<'_>) -> Taken {
        match local {
            Local::Ping => match args.len() {
                1 => {
                    self.client.push(Slot::Ready(bytes::Bytes::from_static(b"+PONG\r\n")));
                    Ok(Step::Next)
                }
                2 => self.answer(|out| out.bulk(&args[1])),
                _ => Err(CommandError::WrongArity("ping".to_owned())),
            },
            Local::Echo => self.answer(|out| out.bulk(&args[1])),
            Local::Hello => self.hello(args),
            Local::Select => match parse_i64(&args[1]) {
                Some(0) => self.answer(|out| out.ok()),
                Some(_) => Err(CommandError::Select),
                None => Err(CommandError::NotAnInteger),
            },
            Local::Auth => match args.len() {
                2 => Err(CommandError::NoPassword),
                3 => login(&args[1]).and_then(|()| self.answer(|out| out.ok())),
                _ => Err(CommandError::Syntax),
            },
            Local::Time => {
                let now = Duration::from_millis(self.now_ms);
                self.answer(|out| {
                    out.array(2);
                    out.text(&now.as_secs().to_string());
                    out.text(&now.subsec_micros().to_string());
                })
            }
            Local::Quit => {
                self.reply(|out| out.ok());
                Ok(Step::Close)
            }
            Local::Reset => {
                self.client.protocol.set(Protocol::Resp2);
                self.client.readonly.set(false);
                self.client.name.take();
                self.answer(|out| out.simple("RESET"))
            }
            Local::BgSave => self.background_save(args),
            Local::LastSave => {
                let seconds = self.server.core.counters().snapshot_oldest_ms / 1000;
                self.answer(|out| out.integer(seconds.cast_signed()))
            }
            Local::ReadOnly | Local::ReadWrite => {
                self.client.readonly.set(local == Local::ReadOnly);
                self.answer(|out| out.ok())
            }
        }
    }

    fn hello(&mut self, args: Args<'_>) -> Taken {
        let mut protocol = self.client.protocol.get();
        if let Some(version) = args.get(1) {
            protocol = match parse_i64(version).ok_or(CommandError::ProtocolNotAnInteger)? {
                2 => Protocol::Resp2,
                3 => Protocol::Resp3,
                _ => return Err(CommandError::NoProtocol),
            };
        }
        let mut name = None;
        let mut rest = args.from(2).iter();
        while let Some(option) = rest.next() {
            let refused = || CommandError::HelloOption(quoted(option));
            if option.eq_ignore_ascii_case(b"setname") {
                name = Some(client_name(rest.next().ok_or_else(refused)?)?);
            } else if option.eq_ignore_ascii_case(b"auth") {
                let (user, _) = (rest.next(), rest.next().ok_or_else(refused)?);
                login(user.ok_or_else(refused)?)?;
            } else {
                return Err(refused());
            }
        }
        self.client.protocol.set(protocol);
        if let Some(name) = name {
            self.client.name.replace(name);
        }
        let (id, role) = (self.client.id, self.role());
        self.answer(|out| {
            out.map(7);
            out.text("server");
            out.text("redis");
            out.text("version");
            out.text(REDIS_VERSION);
            out.text("proto");
            out.integer(protocol.number().into());
            out.text("id");
            out.integer(id.cast_signed());
            out.text("mode");
            out.text("cluster");
            out.text("role");
            out.text(role);
            out.text("modules");
            out.array(0);
        })
    }

    /// Asks for snapshots of all shards here, led or not. Nobody waits for them: `INFO` and `LASTSAVE` tell.
    fn background_save(&mut self, args: Args<'_>) -> Taken {
        match args.get(1) {
            None => {}
            // One that is under way is never in the way here.
            Some(option) if args.len() == 2 && option.eq_ignore_ascii_case(b"schedule") => {}
            Some(_) => return Err(CommandError::Syntax),
        }
        for shard in self.server.shards(true) {
            if let Some(Err(why)) = self.server.core.snapshot(shard).now_or_never() {
                return Err(CommandError::BackgroundSave(why.to_string()));
            }
        }
        self.answer(|out| out.simple("Background saving started"))
    }

    fn role(&self) -> &'static str {
        let topology = Topology::of(&self.server.core.view());
        let myself = topology.myself.map(|place| &topology.nodes[place]);
        if myself.is_none_or(|node| node.is_master()) { "master" } else { "replica" }
    }

    pub(super) fn subcommand(&mut self, sub: Sub, args: Args<'_>) -> Taken {
        match sub {
            Sub::ClientId => {
                let id = self.client.id;
                self.answer(|out| out.integer(id.cast_signed()))
            }
            Sub::ClientInfo => {
                let line = self.client_line(&self.client);
                self.answer(|out| out.verbatim(&line))
            }
            Sub::ClientList => self.client_list(args),
            Sub::ClientGetname => {
                let name = self.client.name.borrow().clone();
                self.answer(|out| if name.is_empty() { out.null() } else { out.text(&name) })
            }
            Sub::ClientSetname => {
                let name = client_name(&args[2])?;
                self.client.name.replace(name);
                self.answer(|out| out.ok())
            }
            Sub::ClientSetinfo => self.client_setinfo(&args[2], &args[3]),
            Sub::ClientNoEvict | Sub::ClientNoTouch => {
                let on = match &args[2] {
                    mode if mode.eq_ignore_ascii_case(b"on") => true,
                    mode if mode.eq_ignore_ascii_case(b"off") => false,
                    _ => return Err(CommandError::Syntax),
                };
                if sub == Sub::ClientNoEvict {
                    self.client.no_evict.set(on);
                }
                self.answer(|out| out.ok())
            }
            Sub::ClusterSlots => self.cluster(ClusterCommand::Slots),
            Sub::ClusterShards => self.cluster(ClusterCommand::Shards),
            Sub::ClusterNodes => self.cluster(ClusterCommand::Nodes),
            Sub::ClusterInfo => self.cluster(ClusterCommand::Info),
            Sub::ClusterMyid => self.cluster(ClusterCommand::MyId),
            Sub::ClusterLinks => self.cluster(ClusterCommand::Links),
            Sub::ClusterKeyslot => self.answer(|out| out.integer(slot_of(&args[2]).into())),
            Sub::ClusterCountkeysinslot => {
                let slot = parse_i64(&args[2]).ok_or(CommandError::NotAnInteger)?;
                let slot = valid_slot(slot).ok_or(CommandError::InvalidSlot)?;
                Ok(Step::Fan(FanRequest::CountInSlot(slot)))
            }
            Sub::ClusterGetkeysinslot => {
                let number = |text| parse_i64(text).ok_or(CommandError::NotAnInteger);
                let (slot, count) = (number(&args[2])?, number(&args[3])?);
                match (valid_slot(slot), u64::try_from(count)) {
                    (Some(slot), Ok(count)) => Ok(Step::Fan(FanRequest::KeysInSlot(slot, count))),
                    _ => Err(CommandError::InvalidSlotOrCount),
                }
            }
            Sub::ClusterCountFailureReports => {
                self.known_node(&args[2])?;
                self.answer(|out| out.integer(0))
            }
            Sub::ClusterReplicas | Sub::ClusterSlaves => self.replicas(&args[2]),
            Sub::CommandCount => self.answer(|out| out.count(commands::all().len())),
            Sub::CommandDocs => self.answer(|out| introspect::docs(args.from(2), out)),
            Sub::CommandInfo => self.answer(|out| introspect::info(args.from(2), out)),
            Sub::CommandList => self.answer(introspect::list),
            Sub::CommandGetkeys => {
                let keys = introspect::keys(args.from(2))?;
                self.answer(|out| {
                    out.array(keys.len());
                    keys.iter().for_each(|key| out.bulk(key));
                })
            }
            Sub::ConfigGet => {
                let clients_max = self.server.options.clients_max;
                self.answer(|out| config::get(args.from(2), clients_max, out))
            }
            Sub::ConfigSet => Err(config::refuse_set(args.from(2))),
            Sub::ConfigResetstat => {
                self.server.stats.reset();
                self.answer(|out| out.ok())
            }
            Sub::ConfigRewrite => Err(CommandError::NoConfigFile),
            Sub::SessionOpen | Sub::SessionKeepalive | Sub::SessionClose => {
                self.client_session(sub, args)
            }
            Sub::ClientHelp
            | Sub::ClusterHelp
            | Sub::CommandHelp
            | Sub::ConfigHelp
            | Sub::SessionHelp => self.answer(|out| introspect::help(&args[0], out)),
        }
    }

    fn cluster(&mut self, command: ClusterCommand) -> Taken {
        let server = self.server.clone();
        self.answer(|out| cluster_reply(command, &server.core.view(), out))
    }

    fn known_node(&self, id: &[u8]) -> Result<(Topology, usize), CommandError> {
        let topology = Topology::of(&self.server.core.view());
        let place = topology.nodes.iter().position(|node| node.id.as_bytes() == id);
        let place = place.ok_or_else(|| CommandError::UnknownNode(quoted(id)))?;
        Ok((topology, place))
    }

    fn replicas(&mut self, id: &[u8]) -> Taken {
        let (topology, place) = self.known_node(id)?;
        if !topology.nodes[place].is_master() {
            return Err(CommandError::NotAMaster);
        }
        let lines = topology.replica_lines(place);
        self.answer(|out| {
            out.array(lines.len());
            lines.iter().for_each(|line| out.text(line));
        })
    }

    fn client_setinfo(&mut self, attribute: &[u8], value: &[u8]) -> Taken {
        let printable = |what| printable(value).ok_or(CommandError::ClientInfo(what));
        if attribute.eq_ignore_ascii_case(b"lib-name") {
            self.client.library.borrow_mut().0 = printable("lib-name")?;
        } else if attribute.eq_ignore_ascii_case(b"lib-ver") {
            self.client.library.borrow_mut().1 = printable("lib-ver")?;
        } else {
            return Err(CommandError::ClientOption(quoted(attribute)));
        }
        self.answer(|out| out.ok())
    }

    fn client_list(&mut self, args: Args<'_>) -> Taken {
        let all = |ids: Option<Vec<u64>>, normal: bool, session: &Self| {
            let clients = session.server.clients.borrow();
            let wanted = |client: &&std::rc::Rc<Client>| {
                normal && ids.as_ref().is_none_or(|ids| ids.contains(&client.id))
            };
            clients.values().filter(wanted).map(|client| session.client_line(client)).collect()
        };
        let text: String = match (args.len(), args.get(2)) {
            (2, _) => all(None, true, self),
            (4, Some(option)) if option.eq_ignore_ascii_case(b"type") => {
                let kind = args[3].to_ascii_lowercase();
                let known: [&[u8]; 5] = [b"normal", b"master", b"replica", b"slave", b"pubsub"];
                if !known.contains(&kind.as_slice()) {
                    return Err(CommandError::ClientType(quoted(&args[3])));
                }
                all(None, kind == b"normal", self)
            }
            (4.., Some(option)) if option.eq_ignore_ascii_case(b"id") => {
                let id = |text| {
                    let id = parse_i64(text).and_then(|id| u64::try_from(id).ok());
                    id.ok_or(CommandError::ClientId)
                };
                let ids = args.from(3).iter().map(id).collect::<Result<_, _>>()?;
                all(Some(ids), true, self)
            }
            _ => return Err(CommandError::Syntax),
        };
        self.answer(|out| out.verbatim(&text))
    }

    fn client_line(&self, client: &Client) -> String {
        let now = self.server.env.now();
        let seconds = |since: Duration| now.saturating_sub(since).as_secs();
        let library = client.library.borrow();
        format!(
            "id={} addr={} laddr={} fd=0 name={} age={} idle={} flags={} db=0 sub=0 psub=0 ssub=0 \
             multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll={} omem=0 \
             tot-mem={} events=r cmd={} user=default redir=-1 resp={} lib-name={} lib-ver={}\n",
            client.id,
            client.address,
            self.server.address,
            client.name.borrow(),
            seconds(client.created),
            seconds(client.last_active.get()),
            match (client.readonly.get(), client.no_evict.get()) {
                (false, false) => "N",
                (true, false) => "r",
                (false, true) => "e",
                (true, true) => "er",
            },
            client.waiting(),
            client.payload_bytes_waiting(),
            match client.last_command.get() {
                "" => "NULL",
                name => name,
            },
            client.protocol.get().number(),
            library.0,
            library.1,
        )
    }
}

fn login(user: &[u8]) -> Result<(), CommandError> {
    // As in a Redis without passwords: the default user may log in with any.
    if user == b"default" { Ok(()) } else { Err(CommandError::WrongPassword) }
}

fn valid_slot(slot: i64) -> Option<u16> {
    u16::try_from(slot).ok().filter(|slot| *slot < SLOTS)
}

/// Text without spaces and control characters.
fn printable(text: &[u8]) -> Option<String> {
    let fits = text.len() <= CLIENT_NAME_BYTES_MAX && text.iter().all(u8::is_ascii_graphic);
    fits.then(|| String::from_utf8_lossy(text).into_owned())
}

fn client_name(text: &[u8]) -> Result<String, CommandError> {
    printable(text).ok_or(CommandError::ClientName)
}
