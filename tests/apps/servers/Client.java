// SPDX-License-Identifier: GPL-2.0-or-later
// Java: URL COUNT. Fetches the page so many times over a kept connection and prints the SHA-256 of each.
import java.math.BigInteger;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.MessageDigest;

public class Client {
	public static void main(String[] a) throws Exception {
		HttpClient c = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
		HttpRequest r = HttpRequest.newBuilder(URI.create(a[0])).build();

		for (int i = Integer.parseInt(a[1]); i > 0; i--) {
			byte[] body = c.send(r, HttpResponse.BodyHandlers.ofByteArray()).body();
			System.out.println(String.format("%064x",
				new BigInteger(1, MessageDigest.getInstance("SHA-256").digest(body))));
		}
	}
}
