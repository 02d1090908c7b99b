<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\AccountNotice;

use Magento\Framework\App\ResourceConnection;
use Magento\Framework\Exception\NoSuchEntityException;
use Magento\Framework\Stdlib\DateTime\DateTime;
use Tocsin\BreachNotification\Api\AcknowledgeAccountNoticeInterface;
use Tocsin\BreachNotification\Api\Data\AccountNoticeInterface;
use Tocsin\BreachNotification\Api\GetAccountNoticesInterface;

/**
 * Sets read_at, once. The table's trigger tells the relay, which reports it as a receipt.
 */
class AcknowledgeAccountNotice implements AcknowledgeAccountNoticeInterface
{
    /**
     * @param ResourceConnection $resource
     * @param GetAccountNoticesInterface $getAccountNotices
     * @param DateTime $dateTime
     */
    public function __construct(
        private readonly ResourceConnection $resource,
        private readonly GetAccountNoticesInterface $getAccountNotices,
        private readonly DateTime $dateTime
    ) {
    }

    /**
     * @inheritDoc
     */
    public function execute(int $customerId, string $noticeId): AccountNoticeInterface
    {
        // One statement: of two clicks at once the first sets the time, and a withdrawal is never overtaken.
        $this->resource->getConnection()->update(
            $this->resource->getTableName('tocsin_account_notice'),
            ['read_at' => $this->dateTime->gmtDate()],
            [
                'notice_id = ?' => $noticeId,
                'customer_id = ?' => $customerId,
                'read_at IS NULL',
                'withdrawn_at IS NULL',
            ]
        );
        foreach ($this->getAccountNotices->execute($customerId) as $notice) {
            if ($notice->getNoticeId() === $noticeId) {
                return $notice;
            }
        }
        throw new NoSuchEntityException(__('There is no security notice "%1" for you.', $noticeId));
    }
}
