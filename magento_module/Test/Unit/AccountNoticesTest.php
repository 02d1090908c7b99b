<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Unit;

use Magento\Customer\Model\Session;
use Magento\Framework\App\RequestInterface;
use Magento\Framework\App\ResourceConnection;
use Magento\Framework\Controller\Result\RedirectFactory;
use Magento\Framework\Data\Form\FormKey\Validator;
use Magento\Framework\DB\Adapter\AdapterInterface;
use Magento\Framework\Exception\NoSuchEntityException;
use Magento\Framework\Message\ManagerInterface;
use Magento\Framework\Stdlib\DateTime\DateTime;
use PHPUnit\Framework\TestCase;
use Tocsin\BreachNotification\Api\AcknowledgeAccountNoticeInterface;
use Tocsin\BreachNotification\Controller\Notice\Read;
use Tocsin\BreachNotification\Model\AccountNotice\AcknowledgeAccountNotice;
use Tocsin\BreachNotification\Model\AccountNotice\GetAccountNotices;
use Tocsin\BreachNotification\Model\AccountNotice\SplitNoticeText;

/**
 * What a customer sees of notices, and how reading one is noted.
 */
class AccountNoticesTest extends TestCase
{
    public function testUnreadNoticesComeFirstAndTheNewestOfEach(): void
    {
        $found = $this->notices($this->connection([
            $this->row('read', '2026-03-04 00:00:00', '2026-03-05 00:00:00'),
            $this->row('new', '2026-03-03 00:00:00'),
            $this->row('old', '2026-03-01 00:00:00'),
        ]))->execute(42);
        self::assertSame(['new', 'old', 'read'], array_map(static fn ($notice) => $notice->getNoticeId(), $found));
    }

    public function testReadingIsNotedOnceForTheCustomerAloneAndNeverAfterAWithdrawal(): void
    {
        $connection = $this->connection([$this->row('n-1', '2026-03-03 00:00:00', '2026-03-04 00:00:00')]);
        $connection->expects(self::once())->method('update')->with(
            'shop_tocsin_account_notice',
            ['read_at' => '2026-03-04 09:00:00'],
            ['notice_id = ?' => 'n-1', 'customer_id = ?' => 42, 'read_at IS NULL', 'withdrawn_at IS NULL']
        );
        $clock = $this->createStub(DateTime::class);
        $clock->method('gmtDate')->willReturn('2026-03-04 09:00:00');
        $acknowledge = new AcknowledgeAccountNotice(
            new ResourceConnection($connection, 'shop_'),
            $this->notices($connection),
            $clock
        );
        // The time that the table has, not the one of this repeat.
        self::assertSame('2026-03-04 00:00:00', $acknowledge->execute(42, 'n-1')->getReadAt());
    }

    public function testANoticeOfSomebodyElseIsNone(): void
    {
        $connection = $this->connection([$this->row('n-1', '2026-03-03 00:00:00')]);
        $acknowledge = new AcknowledgeAccountNotice(
            new ResourceConnection($connection, 'shop_'),
            $this->notices($connection),
            new DateTime()
        );
        $this->expectException(NoSuchEntityException::class);
        $acknowledge->execute(42, 'n-2');
    }

    public function testWithoutTheFormKeyNothingIsNoted(): void
    {
        $acknowledge = $this->createMock(AcknowledgeAccountNoticeInterface::class);
        $acknowledge->expects(self::never())->method('execute');
        self::assertSame(['error'], $this->press($acknowledge, false));
    }

    public function testPressingTheButtonNotesItForWhoIsLoggedIn(): void
    {
        $acknowledge = $this->createMock(AcknowledgeAccountNoticeInterface::class);
        $acknowledge->expects(self::once())->method('execute')->with(42, 'n-1');
        self::assertSame(['success'], $this->press($acknowledge, true));
    }

    public function testAWithdrawnNoticeIsSaidToBeGone(): void
    {
        $acknowledge = $this->createStub(AcknowledgeAccountNoticeInterface::class);
        $acknowledge->method('execute')->willThrowException(new NoSuchEntityException(__('gone')));
        self::assertSame(['error'], $this->press($acknowledge, true));
    }

    public function testATextIsSplitAndNoWordIsLost(): void
    {
        $text = "First words.\nSecond line.\n\nWhat Happened\n\nOn Monday\r\n\r\n- one\n- two <b>\n\n- three\nmixed\n\nExample Shop\n";
        self::assertSame([
            ['kind' => 'paragraph', 'lines' => ['First words.', 'Second line.']],
            ['kind' => 'heading', 'lines' => ['What Happened']],
            ['kind' => 'heading', 'lines' => ['On Monday']],
            ['kind' => 'items', 'lines' => ['one', 'two <b>']],
            ['kind' => 'paragraph', 'lines' => ['- three', 'mixed']],
            ['kind' => 'paragraph', 'lines' => ['Example Shop']],
        ], (new SplitNoticeText())->execute($text));
        self::assertSame([], (new SplitNoticeText())->execute("  \n\n "));
    }

    /**
     * Press "I have read this" and return the kinds of messages that the customer then sees.
     *
     * @return string[]
     */
    private function press(AcknowledgeAccountNoticeInterface $acknowledge, bool $keyIsRight): array
    {
        $said = [];
        $request = $this->createStub(RequestInterface::class);
        $request->method('getParam')->willReturn('n-1');
        $session = $this->createStub(Session::class);
        $session->method('getCustomerId')->willReturn('42');
        $validator = $this->createStub(Validator::class);
        $validator->method('validate')->willReturn($keyIsRight);
        $messages = $this->createStub(ManagerInterface::class);
        $messages->method('addErrorMessage')->willReturnCallback(static function () use (&$said): void {
            $said[] = 'error';
        });
        $messages->method('addSuccessMessage')->willReturnCallback(static function () use (&$said): void {
            $said[] = 'success';
        });
        $read = new Read($request, $session, $validator, $acknowledge, new RedirectFactory(), $messages);
        self::assertSame('security_notices', $read->execute()->path);
        return $said;
    }

    private function notices(AdapterInterface $connection): GetAccountNotices
    {
        return new GetAccountNotices(new ResourceConnection($connection, 'shop_'));
    }

    /**
     * @param array<int, array<string, string|null>> $rows
     * @return AdapterInterface&\PHPUnit\Framework\MockObject\MockObject
     */
    private function connection(array $rows): AdapterInterface
    {
        $connection = $this->createMock(AdapterInterface::class);
        $connection->method('fetchAll')->willReturn($rows);
        return $connection;
    }

    /**
     * @return array<string, string|null>
     */
    private function row(string $noticeId, string $createdAt, ?string $readAt = null): array
    {
        $text = ['title' => 'Notice', 'body' => 'Words.', 'locale' => 'en_US'];
        return ['notice_id' => $noticeId, 'created_at' => $createdAt, 'read_at' => $readAt] + $text;
    }
}
