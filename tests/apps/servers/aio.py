# SPDX-License-Identifier: GPL-2.0-or-later
"""asyncio: ADDRESS PORT [CERT KEY]. Streams at PORT echo; a protocol at PORT + 1 answers lengths with that many bytes;
at PORT + 2 bytes are taken and their SHA-256 is told after the peer's end."""
import asyncio
import hashlib
import ssl
import sys


async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


class Lengths(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        self.buffer += data
        while b"\n" in self.buffer:
            line, self.buffer = self.buffer.split(b"\n", 1)
            self.transport.writelines([b"%d\n" % int(line), b"x" * int(line)])


async def digest(reader, writer):
    h = hashlib.sha256()
    while data := await reader.read(65536):
        h.update(data)
    writer.write(h.hexdigest().encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main(addr, port, *tls):
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
    await asyncio.start_server(echo, addr, port, ssl=context)
    await asyncio.get_running_loop().create_server(Lengths, addr, port + 1)
    await asyncio.start_server(digest, addr, port + 2)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
