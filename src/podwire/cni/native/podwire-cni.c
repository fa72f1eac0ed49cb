// podwire-cni: carries a CNI request to the agent of this node and its answer back.
//
//   request   "podwire-cni/1\n", every CNI_* variable as NAME=VALUE\0, \0, standard input; then shutdown.
//             The network namespace, opened here, rides along as a descriptor (SCM_RIGHTS): the caller's
//             CNI_NETNS need not exist in the agent's view of the file system.
//   answer    exit code in decimal, "\n", standard output.
//
// VERSION is answered here. An agent that cannot be reached is the specification's error 11, "try again
// later" (50, "not available", for STATUS).

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define HELLO "podwire-cni/1\n"
#define PATIENCE_S 120

extern char **environ;
static const char *socket_path, *command;

static int fail(const char *act, const char *cause)
{
	int code = !strcmp(command, "STATUS") ? 50 : 11;
	printf("{\"cniVersion\":\"1.1.0\",\"code\":%d,\"msg\":\"cannot %s the podwire agent at ", code, act);
	for (const char *c = socket_path; *c; c++)
		if (*c >= ' ' && *c != '"' && *c != '\\')
			putchar(*c);
	printf("\",\"details\":\"%s\"}\n", cause);
	return 1;
}

static int answer_version(void)
{
	puts("{\"cniVersion\":\"1.1.0\",\"supportedVersions\":"
	     "[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}");
	return 0;
}

static int connect_agent(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = PATIENCE_S };
	if (strlen(socket_path) >= sizeof address.sun_path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(address.sun_path, socket_path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	return fd;
}

static int send_all(int fd, const char *bytes, size_t left)
{
	while (left) {
		ssize_t sent = send(fd, bytes, left, MSG_NOSIGNAL);
		if (sent < 0)
			return -1;
		bytes += sent, left -= sent;
	}
	return 0;
}

static int send_hello(int fd, int netns)
{
	struct iovec bytes = { HELLO, sizeof HELLO - 1 };
	union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control;
	struct msghdr message = { .msg_iov = &bytes, .msg_iovlen = 1 };
	if (netns >= 0) {
		memset(&control, 0, sizeof control);
		control.head.cmsg_len = CMSG_LEN(sizeof(int));
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		memcpy(CMSG_DATA(&control.head), &netns, sizeof netns);
		message.msg_control = &control;
		message.msg_controllen = sizeof control;
	}
	return sendmsg(fd, &message, MSG_NOSIGNAL) == sizeof HELLO - 1 ? 0 : -1;
}

static int send_request(int fd)
{
	char buffer[65536];
	ssize_t got;
	for (char **e = environ; *e; e++)
		if (!strncmp(*e, "CNI_", 4) && send_all(fd, *e, strlen(*e) + 1))
			return -1;
	if (send_all(fd, "", 1))
		return -1;
	while ((got = read(0, buffer, sizeof buffer)) > 0)
		if (send_all(fd, buffer, got))
			return -1;
	return got < 0 ? -1 : shutdown(fd, SHUT_WR);
}

static int pass_answer(int fd)
{
	char buffer[65536], *body;
	size_t have = 0;
	ssize_t got;
	// The whole first: half an answer on standard output would be no JSON.
	char *whole = NULL;
	while ((got = recv(fd, buffer, sizeof buffer, 0)) > 0) {
		whole = realloc(whole, have + got + 1);
		if (!whole)
			return fail("hear", "out of memory");
		memcpy(whole + have, buffer, got);
		have += got;
		whole[have] = 0;
	}
	if (got < 0)
		return fail("hear", strerror(errno));
	if (!whole || !(body = strchr(whole, '\n')))
		return fail("hear", "it closed the connection; it may have been restarted");
	body++;
	fwrite(body, 1, have - (body - whole), stdout);
	return atoi(whole);
}

int main(void)
{
	const char *netns_path = getenv("CNI_NETNS");
	socket_path = getenv("PODWIRE_CNI_SOCKET");
	if (!socket_path || !*socket_path)
		socket_path = "/run/podwire/cni.sock";
	command = getenv("CNI_COMMAND");
	if (!command)
		command = "";
	if (!strcmp(command, "VERSION"))
		return answer_version();
	int fd = connect_agent();
	if (fd < 0)
		return fail("reach", strerror(errno));
	int netns = netns_path && *netns_path ? open(netns_path, O_RDONLY | O_CLOEXEC) : -1;
	if (send_hello(fd, netns) || send_request(fd))
		return fail("ask", strerror(errno));
	return pass_answer(fd);
}
