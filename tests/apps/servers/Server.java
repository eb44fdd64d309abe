// SPDX-License-Identifier: GPL-2.0-or-later
// Java: ADDRESS PORT DIRECTORY. com.sun.net.httpserver at PORT (GET a file, POST is echoed), a thread for each
// connection with blocking streams at PORT + 1 (echo), NIO with a selector at PORT + 2 (echo).
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.Executors;

public class Server {
	static void http(String addr, int port, Path dir) throws IOException {
		HttpServer s = HttpServer.create(new InetSocketAddress(addr, port), 128);
		s.createContext("/", e -> {
			byte[] body = e.getRequestMethod().equals("POST") ? e.getRequestBody().readAllBytes()
				: Files.readAllBytes(dir.resolve(e.getRequestURI().getPath().substring(1)));
			e.sendResponseHeaders(200, body.length == 0 ? -1 : body.length);
			if (body.length != 0)
				try (OutputStream out = e.getResponseBody()) {
					out.write(body);
				}
			e.close();
		});
		s.setExecutor(Executors.newFixedThreadPool(8));
		s.start();
	}

	static void echo(Socket s) {
		try (s; InputStream in = s.getInputStream(); OutputStream out = s.getOutputStream()) {
			in.transferTo(out);
		} catch (IOException e) {
			System.err.println(e);
		}
	}

	static void threads(String addr, int port) throws IOException {
		ServerSocket l = new ServerSocket(port, 128, InetAddress.getByName(addr));
		new Thread(() -> {
			try {
				for (;;) {
					Socket s = l.accept();
					new Thread(() -> echo(s)).start();
				}
			} catch (IOException e) {
				System.err.println(e);
			}
		}).start();
	}

	static void turn(SelectionKey key) throws IOException {
		SocketChannel c = (SocketChannel)key.channel();
		ByteBuffer b = (ByteBuffer)key.attachment();

		if (key.isReadable() && c.read(b) < 0) {
			c.close();
			return;
		}
		b.flip();
		c.write(b);
		b.compact();
		key.interestOps((b.hasRemaining() ? SelectionKey.OP_READ : 0) |
			(b.position() > 0 ? SelectionKey.OP_WRITE : 0));
	}

	static void nio(String addr, int port) throws IOException {
		Selector sel = Selector.open();
		ServerSocketChannel l = ServerSocketChannel.open().bind(new InetSocketAddress(addr, port));

		l.configureBlocking(false);
		l.register(sel, SelectionKey.OP_ACCEPT);
		System.out.println("ready");
		for (;;) {
			sel.select();
			for (SelectionKey key : sel.selectedKeys()) {
				if (key.isAcceptable()) {
					SocketChannel c = l.accept();
					c.configureBlocking(false);
					c.register(sel, SelectionKey.OP_READ, ByteBuffer.allocateDirect(65536));
					continue;
				}
				try {
					turn(key);
				} catch (IOException e) {
					key.channel().close();
				}
			}
			sel.selectedKeys().clear();
		}
	}

	public static void main(String[] a) throws IOException {
		int port = Integer.parseInt(a[1]);

		http(a[0], port, Path.of(a[2]));
		threads(a[0], port + 1);
		nio(a[0], port + 2);
	}
}
